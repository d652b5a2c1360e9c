package receiver

import (
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"

	"github.com/understudy-dr/understudy/receiver/journal"
)

func TestKeepReadsWhatItPrints(t *testing.T) {
	day := 24 * time.Hour
	for text, want := range map[string]Keep{
		"1h":                  {{Span: time.Hour}},
		"90s":                 {{Span: 90 * time.Second}},
		"1h,1d/1h,30d/1d":     journal.DefaultTiers(),
		" 1h , 24h/60m":       {{Span: time.Hour}, {Span: day, Every: time.Hour}},
		"10m,2h/1m,4d/3h30m":  {{Span: 10 * time.Minute}, {Span: 2 * time.Hour, Every: time.Minute}, {Span: 4 * day, Every: 210 * time.Minute}},
		"48h/30m":             {{Span: 2 * day, Every: 30 * time.Minute}},
		"1h,1d/1h,30d/1d,10m": nil,
		"":                    nil,
		"1h,":                 nil,
		"1w":                  nil,
		"1d/0s":               nil,
		"-1h":                 nil,
		"1h/2h":               nil,
		"1h/1m/1s":            nil,
	} {
		var k Keep
		err := k.Set(text)
		if (err == nil) != (want != nil) || k.String() != want.String() {
			t.Errorf("%q: %v, %v", text, k, err)
		}
		var again Keep
		if err == nil && (again.Set(k.String()) != nil || again.String() != k.String()) {
			t.Errorf("%q prints %q, which reads as %q", text, k.String(), again.String())
		}
	}
}

func TestConfigFromTOML(t *testing.T) {
	for text, says := range map[string]string{
		"keep = \"1h,1d/1h\"\nhorizon = \"latest\"\nmax_bytes = 5": "",
		"horizon = \"newest\"":          "window or latest",
		"keep = \"1h,30m\"":             "must both grow",
		"max_bytes = -1":                "negative",
		"max_points = -1":               "negative",
		"keep = \"an hour\"":            "duration",
		"dir = \"x\"\nkeep = \"1h/2h\"": "longer than the span",
	} {
		var c Config
		_, err := toml.Decode(text, &c)
		if err == nil {
			c, err = c.withDefaults()
		}
		if (err == nil) != (says == "") || err != nil && !strings.Contains(err.Error(), says) {
			t.Errorf("%q: %v", text, err)
		}
	}
	c, err := Config{}.withDefaults()
	if err != nil || c.Keep.String() != "1h,1d/1h,30d/1d" || c.Horizon != HorizonWindow || c.MaxPoints != 10000 {
		t.Errorf("defaults %+v, %v", c, err)
	}
}
