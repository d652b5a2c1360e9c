package workload

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// database is one sqlite3 that is fed by a pipe. It is for one goroutine.
type database struct {
	path   string
	report *reporter
	pause  time.Duration
}

const createTable = "CREATE TABLE IF NOT EXISTS work (n INTEGER PRIMARY KEY, payload TEXT NOT NULL);"

// run inserts one row after another, each a transaction of its own, until ctx ends.
func (d *database) run(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, "sqlite3", "-batch", d.path)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start sqlite3: %w", err)
	}
	err = d.feed(ctx, in, bufio.NewReader(out))
	in.Close()
	_ = cmd.Wait() // it was killed, or said what is wrong
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		return fmt.Errorf("sqlite3: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

func (d *database) feed(ctx context.Context, in io.Writer, out *bufio.Reader) error {
	// .bail ends sqlite3 at the first error, so that a transaction that failed is never answered.
	_, err := io.WriteString(in, ".bail on\n.timeout 10000\nPRAGMA journal_mode=WAL;\nPRAGMA synchronous=FULL;\n"+
		createTable+"\nSELECT 'next', coalesce(max(n), 0)+1 FROM work;\n")
	if err != nil {
		return err
	}
	if line, err := out.ReadString('\n'); err != nil || line != "wal\n" {
		return fmt.Errorf("journal mode is %q, not wal (%w)", line, err)
	}
	line, err := out.ReadString('\n')
	if err != nil {
		return err
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(strings.TrimSpace(line), "next|"), 10, 64)
	if err != nil {
		return fmt.Errorf("first answer is %q", line)
	}
	for ; ctx.Err() == nil; n++ {
		if err := d.insert(in, out, n); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(d.pause):
		}
	}
	return nil
}

func (d *database) insert(in io.Writer, out *bufio.Reader, n uint64) error {
	op, err := d.report.begin(kindRow, "", n)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintf(in, "INSERT INTO work VALUES (%d, '%s');\nSELECT n FROM work WHERE n=%d;\n", n, rowPayload(n), n); err != nil {
		return err
	}
	line, err := out.ReadString('\n')
	if err != nil {
		return err
	}
	if strings.TrimSpace(line) != strconv.FormatUint(n, 10) {
		return fmt.Errorf("answer to row %d is %q", n, line)
	}
	return d.report.ack(op)
}

// readRows checks the database below root and returns the highest row. Opening it replays its write-ahead log.
func readRows(ctx context.Context, root string) (last uint64, err error) {
	path := filepath.Join(root, databaseName)
	// The copy may be of the moment before the table was made.
	cmd := exec.CommandContext(ctx, "sqlite3", "-batch", path, "PRAGMA integrity_check; "+createTable+" SELECT n, payload FROM work ORDER BY n;")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("sqlite3: %w: %s", err, strings.TrimSpace(said.String()))
	}
	lines := bufio.NewScanner(&out)
	lines.Buffer(nil, 1<<20)
	if !lines.Scan() || lines.Text() != "ok" {
		return 0, fmt.Errorf("integrity check of the database says %q", lines.Text())
	}
	for lines.Scan() {
		number, payload, _ := strings.Cut(lines.Text(), "|")
		n, err := strconv.ParseUint(number, 10, 64)
		if err != nil || n != last+1 {
			return last, fmt.Errorf("row %q follows row %d: an earlier transaction is missing", number, last)
		}
		if payload != rowPayload(n) {
			return last, fmt.Errorf("row %d holds %d bytes that are not its own", n, len(payload))
		}
		last = n
	}
	return last, lines.Err()
}
