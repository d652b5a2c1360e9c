package keys

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/internal/daemon"
)

type config struct {
	Every time.Duration    `toml:"every" range:"1s..1m"`
	Size  int64            `toml:"size" unit:"bytes" range:"0.."`
	Log   daemon.LogConfig `toml:"log"`
	Parts []struct {
		Name string `toml:"name" doc:"its name" values:"a|b"`
	} `toml:"part"`
}

func flagsOf(every *time.Duration, size *int64, log *daemon.LogConfig) *pflag.FlagSet {
	f := pflag.NewFlagSet("", pflag.ContinueOnError)
	f.DurationVar(every, "every", 90*time.Second, "how often")
	f.Int64Var(size, "size", 2<<20, "how much")
	f.StringVar(&log.Level, "log-level", "info", "level")
	f.StringVar(&log.Format, "log-format", "text", "format")
	return f
}

func TestTable(t *testing.T) {
	var c config
	all, err := List(flagsOf(&c.Every, &c.Size, &c.Log), &c)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"| key | flag | type | unit | default | allowed | meaning | a change takes |",
		"|---|---|---|---|---|---|---|---|",
		"| `every` | `--every` | duration | ms, s, m, h | `1m30s` | 1s to 1m | how often | restart |",
		"| `size` | `--size` | integer | bytes | 2097152 (2 MiB) | 0 or more | how much | restart |",
		"| `[log] format` | `--log-format` | string |  | `text` | `text`, `json` | format | restart |",
		"| `[log] level` | `--log-level` | string |  | `info` | `debug`, `info`, `warn`, `error` | level | reload |",
		"| `[[part]] name` |  | string |  | none | `a`, `b` | its name | restart |", "",
	}, "\n")
	got := Table(all)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}

	path := filepath.Join(t.TempDir(), "x.md")
	text := "before\n<!-- d: generated -->\n" + got + "<!-- d: end -->\nafter\n"
	stale := strings.Replace(text, "how often", "how seldom", 1)
	if err := os.WriteFile(path, []byte(stale), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Hold(path, "d", got, false); err == nil || !strings.Contains(err.Error(), "make docs-tables") {
		t.Errorf("a stale table: %v", err)
	}
	if err := Hold(path, "e", got, true); err == nil {
		t.Error("a table without a place was written")
	}
	if err := errors.Join(Hold(path, "d", got, true), Hold(path, "d", got, false)); err != nil {
		t.Error(err)
	}
	if raw, err := os.ReadFile(path); err != nil || string(raw) != text {
		t.Errorf("%v, written:\n%s", err, raw)
	}
}

// TestWhatIsRefused plants each mistake that a list refuses.
func TestWhatIsRefused(t *testing.T) {
	type (
		noUnit struct {
			N int `toml:"n" range:"any"`
		}
		noRange struct {
			N time.Duration `toml:"n"`
		}
		badRange struct {
			N time.Duration `toml:"n" range:"1..2s"`
		}
		noMeaning struct {
			N []struct {
				A string `toml:"a"`
			} `toml:"n"`
		}
		twice struct {
			N string `toml:"n" doc:"said twice"`
		}
		strange struct {
			N []struct {
				A any `toml:"a" doc:"a thing"`
			} `toml:"n"`
		}
		good struct {
			N string `toml:"n"`
		}
	)
	flags := func(set func(f *pflag.FlagSet)) *pflag.FlagSet {
		f := pflag.NewFlagSet("", pflag.ContinueOnError)
		set(f)
		return f
	}
	var (
		a noUnit
		b noRange
		c badRange
		d noMeaning
		e twice
		s strange
		g good
		o string
	)
	for _, row := range []struct {
		name   string
		flags  *pflag.FlagSet
		config any
		want   string
	}{
		{"number without a unit", flags(func(f *pflag.FlagSet) { f.IntVar(&a.N, "n", 1, "some") }), &a, "key n: a number without a unit"},
		{"duration without a range", flags(func(f *pflag.FlagSet) { f.DurationVar(&b.N, "n", 1, "some") }), &b, `key n: range ""`},
		{"limit that is no duration", flags(func(f *pflag.FlagSet) { f.DurationVar(&c.N, "n", 1, "some") }), &c, `key n: range "1..2s"`},
		{"no meaning", flags(func(*pflag.FlagSet) {}), &d, "key n.a: nothing says what it means"},
		{"flag without a usage", flags(func(f *pflag.FlagSet) { f.StringVar(&g.N, "n", "", "") }), &g, "key n: nothing says what it means"},
		{"two meanings", flags(func(f *pflag.FlagSet) { f.StringVar(&e.N, "n", "", "some") }), &e, "key n: its meaning is in its tag and"},
		{"no flag", flags(func(*pflag.FlagSet) {}), &g, "key n: no flag sets it"},
		{"flag that sets something else", flags(func(f *pflag.FlagSet) { f.StringVar(&o, "n", "", "some") }), &g, "key n: no flag sets it"},
		{"flag without a key", flags(func(f *pflag.FlagSet) { f.StringVar(&g.N, "n", "", "some"); f.StringVar(&o, "o", "", "other") }), &g, "flag --o has no key"},
		{"no words for the type", flags(func(*pflag.FlagSet) {}), &s, "key n.a: no words for its type"},
		{"good", flags(func(f *pflag.FlagSet) { f.StringVar(&g.N, "n", "", "some") }), &g, ""},
	} {
		_, err := List(row.flags, row.config)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.Contains(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}

// TestClaims: a limit, a value or a reload that is not the code's is found.
func TestClaims(t *testing.T) {
	var c config
	all, err := List(flagsOf(&c.Every, &c.Size, &c.Log), &c)
	if err != nil {
		t.Fatal(err)
	}
	check := func(least, most time.Duration, names string) func(c *config) error {
		return func(c *config) error {
			switch {
			case c.Every != 0 && (c.Every < least || c.Every > most), c.Size < 0:
				return errors.New("outside")
			case len(c.Parts) > 0 && !strings.Contains(names, c.Parts[0].Name):
				return errors.New("no such part")
			}
			_, err := daemon.NewLogger(os.Stderr, c.Log)
			return err
		}
	}
	for _, row := range []struct {
		name  string
		check func(c *config) error
		tell  func(all []Key)
		want  string
	}{
		{"as it is", check(time.Second, time.Minute, "ab"), nil, ""},
		{"the code takes less", check(time.Millisecond, time.Minute, "ab"), nil, `every: the table does not allow "every = \"999.999999ms\"\n", the code does`},
		{"the code takes more", check(time.Second, time.Hour, "ab"), nil, `every: the table does not allow "every = \"1m0.000000001s\"\n"`},
		{"the code is stricter", check(2*time.Second, time.Minute, "ab"), nil, `every: the table allows "every = \"1s\"\n", the code says: outside`},
		{"a value less", check(time.Second, time.Minute, "a"), nil, `part.name: the table allows "[[part]]\nname = \"b\"\n"`},
		{"any value", check(time.Second, time.Minute, "ab none-of-these"), nil, `part.name: the table does not allow`},
		{"a reload too many", check(time.Second, time.Minute, "ab"), func(all []Key) { all[0].Reload = true }, "every: the table says reload: true"},
		{"a reload too few", check(time.Second, time.Minute, "ab"), func(all []Key) { all[3].Reload = false }, "log.level: the table says reload: false"},
	} {
		keys := append([]Key(nil), all...)
		if row.tell != nil {
			row.tell(keys)
		}
		claims := Claims[config]{
			Good: func() *config { return &config{} }, Check: row.check, Dir: t.TempDir(),
			Log: func(c *config) *daemon.LogConfig { return &c.Log },
		}
		err := claims.Hold(keys)
		if row.want == "" && err != nil || row.want != "" && (err == nil || !strings.HasPrefix(err.Error(), row.want)) {
			t.Errorf("%s: %v, want %q", row.name, err, row.want)
		}
	}
}
