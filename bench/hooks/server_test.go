package hooks

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/understudy-dr/understudy/bench/testbed"
)

// server is a database server of the distribution, with a data folder of its own, run as its own user.
type server struct {
	name   string
	user   string
	client func(socket string) []string                   // reads statements from a pipe and answers on another
	create func(data string) []string                     // makes the data folder
	run    func(data, socket string) []string             // the server
	env    func(socket, hookDir string) map[string]string // of its hooks
	broken func(env map[string]string)                    // makes the hooks fail
	insert string                                         // beside each row, into a table without a log of its own; may be empty
	sound  string                                         // asks a copy whether that table is sound; its answer ends in OK
	table  string                                         // the statement that makes the table
}

// postgresBin is the newest PostgreSQL's folder of programs.
func postgresBin(t *testing.T) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	if len(found) == 0 {
		t.Fatal("not installed: postgres; run: make deps")
	}
	return filepath.Dir(found[len(found)-1])
}

func postgresql(t *testing.T) *server {
	bin := postgresBin(t)
	client := func(socket string) []string {
		return []string{"setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "psql", "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", socket, "postgres"}
	}
	return &server{
		name: "postgresql", user: "postgres", client: client,
		create: func(data string) []string {
			return []string{filepath.Join(bin, "initdb"), "--auth=peer", "--encoding=UTF8", "--no-sync", data}
		},
		run: func(data, socket string) []string {
			return []string{
				filepath.Join(bin, "postgres"), "-D", data, "-k", socket, "-c", "listen_addresses=",
				"-c", "max_wal_size=64MB", "-c", "min_wal_size=32MB", "-c", "shared_buffers=16MB",
			}
		},
		env: func(socket, _ string) map[string]string { return map[string]string{"PGHOST": socket} },
		broken: func(env map[string]string) {
			env["PGHOST"] = "/nowhere"
		},
		table: "CREATE TABLE work (n bigint PRIMARY KEY, payload text NOT NULL);",
	}
}

func mariadb(t *testing.T) *server {
	if err := testbed.Need("mariadbd", "mariadb", "mariadb-install-db"); err != nil {
		t.Fatal(err)
	}
	path := func(socket string) string { return filepath.Join(socket, "s") }
	client := func(socket string) []string {
		return []string{"mariadb", "--no-defaults", "--socket=" + path(socket), "--batch", "--skip-column-names", "--unbuffered", "--skip-reconnect", "test"}
	}
	return &server{
		name: "mariadb", user: "nobody", client: client,
		create: func(data string) []string {
			return []string{"mariadb-install-db", "--no-defaults", "--datadir=" + data, "--auth-root-authentication-method=socket", "--skip-name-resolve"}
		},
		run: func(data, socket string) []string {
			return []string{
				"mariadbd", "--no-defaults", "--datadir=" + data, "--socket=" + path(socket), "--skip-networking", "--pid-file=" + path(socket) + ".pid",
				"--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M", "--aria-pagecache-buffer-size=8M", "--key-buffer-size=1M",
				"--myisam-recover-options=OFF", // a table that was not closed must show
			}
		},
		env: func(socket, hookDir string) map[string]string {
			return map[string]string{"CLIENT_OPTIONS": "--no-defaults --socket=" + path(socket), "HOOK_DIR": hookDir}
		},
		broken: func(env map[string]string) { env["CLIENT_OPTIONS"] = "--no-defaults --socket=/nowhere" },
		table:  "CREATE TABLE work (n bigint PRIMARY KEY, payload text NOT NULL) ENGINE=InnoDB;\nCREATE TABLE plain (n bigint PRIMARY KEY) ENGINE=MyISAM;",
		insert: "INSERT INTO plain VALUES (%d);\n",
		sound:  "CHECK TABLE plain EXTENDED;",
	}
}

// group is the user's own; nobody's has another name.
func (s *server) group() string {
	if s.user == "nobody" {
		return "nogroup"
	}
	return s.user
}

// asUser runs a command as the server's user.
func (s *server) asUser(argv []string) []string {
	return append([]string{"setpriv", "--reuid=" + s.user, "--regid=" + s.group(), "--init-groups"}, argv...)
}

// start starts the server on a data folder and waits until it answers.
func (s *server) start(ctx context.Context, bed *testbed.Bed, name, data string) (*testbed.Process, string, error) {
	socket := bed.Path(name)
	if err := os.MkdirAll(socket, 0o700); err != nil {
		return nil, "", err
	}
	if _, err := testbed.Output(ctx, "chown", s.user+":", socket); err != nil {
		return nil, "", err
	}
	if err := os.Chmod(socket, 0o755); err != nil {
		return nil, "", err
	}
	p, err := bed.Start(name, nil, s.asUser(s.run(data, socket))...)
	if err != nil {
		return nil, "", err
	}
	for deadline := time.Now().Add(2 * time.Minute); ; {
		got, err := s.ask(ctx, socket, "SELECT 'up';")
		if err == nil && strings.TrimSpace(got) == "up" {
			return p, socket, nil
		}
		select {
		case <-p.Done():
			return nil, "", fmt.Errorf("%s ended: %w\n%s", name, p.Err(), p.Log())
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return nil, "", fmt.Errorf("%s does not answer: %w\n%s", name, err, p.Log())
		}
	}
}

// ask runs statements and returns what the client printed.
func (s *server) ask(ctx context.Context, socket, sql string) (string, error) {
	argv := s.client(socket)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Stdin = strings.NewReader(sql + "\n")
	out, err := cmd.CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", s.name, err, out)
	}
	return string(out), err
}

// writer inserts row after row, each a transaction of its own, and knows when each was acknowledged.
type writer struct {
	cmd    *exec.Cmd
	insert string
	in     io.WriteCloser
	done   chan error

	mu    sync.Mutex
	begun int
	acked []time.Time // of row n at n-1
}

func (s *server) write(socket string) (*writer, error) {
	argv := s.client(socket)
	w := &writer{cmd: exec.Command(argv[0], argv[1:]...), insert: s.insert, done: make(chan error, 1)}
	w.cmd.Dir = "/"
	var said strings.Builder
	w.cmd.Stderr = &said
	out, err := w.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if w.in, err = w.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := w.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		err := w.feed(bufio.NewReader(out))
		w.in.Close()
		if ended := w.cmd.Wait(); err != nil {
			err = fmt.Errorf("writer: %w (%w): %s", err, ended, said.String())
		}
		w.done <- err
	}()
	return w, nil
}

// payload is what row n holds.
func payload(n int) string { return strings.Repeat(strconv.Itoa(n)+" ", 20+n%200) }

func (w *writer) feed(out *bufio.Reader) error {
	for n := 1; ; n++ {
		w.mu.Lock()
		if w.begun < 0 {
			w.mu.Unlock()
			return nil
		}
		w.begun = n
		w.mu.Unlock()
		if w.insert != "" {
			if _, err := fmt.Fprintf(w.in, w.insert, n); err != nil {
				return err
			}
		}
		if _, err := fmt.Fprintf(w.in, "INSERT INTO work VALUES (%d, '%s');\nSELECT n FROM work WHERE n = %d;\n", n, payload(n), n); err != nil {
			return err
		}
		line, err := out.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.TrimSpace(line) != strconv.Itoa(n) {
			return fmt.Errorf("answer to row %d is %q", n, line)
		}
		w.mu.Lock()
		w.acked = append(w.acked, time.Now())
		w.mu.Unlock()
		time.Sleep(2 * time.Millisecond)
	}
}

// stop ends the writer after its row, and returns what went wrong before.
func (w *writer) stop() error {
	w.mu.Lock()
	w.begun = -1
	w.mu.Unlock()
	select {
	case err := <-w.done:
		return err
	case <-time.After(time.Minute):
		_ = w.cmd.Process.Kill()
		return errors.Join(errors.New("writer hangs: the database is locked"), <-w.done)
	}
}

// rows is how many were acknowledged so far.
func (w *writer) rows() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// before is how many rows were acknowledged before at.
func (w *writer) before(at time.Time) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := 0
	for n < len(w.acked) && w.acked[n].Before(at) {
		n++
	}
	return n
}

// goesOn waits for more rows.
func (w *writer) goesOn(t *testing.T, more int, limit time.Duration) {
	t.Helper()
	from := w.rows()
	for deadline := time.Now().Add(limit); w.rows() < from+more; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the database took %d rows within %v, not %d: it is locked", w.rows()-from, limit, more)
		}
	}
}
