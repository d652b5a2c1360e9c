package keys

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/understudy-dr/understudy/internal/daemon"
)

// Claims holds what the tables say of the keys of a T against the code that reads, checks and reloads it.
type Claims[T any] struct {
	Good  func() *T                  // a configuration that is allowed, as it is before a file is loaded
	Base  map[string]string          // what each table must have, by its head, in TOML
	Check func(*T) error             // says what is wrong with a configuration that was loaded
	Log   func(*T) *daemon.LogConfig // for daemon.NewReload
	Dir   string                     // for files
}

// Hold gives an error for each key whose limits or values are not those that the code has, or that a reload treats otherwise.
func (c Claims[T]) Hold(all []Key) error {
	var wrong []error
	for _, k := range all {
		for _, p := range k.Probes(c.Base[k.Table]) {
			if err := c.try(p); err != nil {
				wrong = append(wrong, fmt.Errorf("%s: %w", k.Name, err))
			}
		}
		if err := c.reload(k); err != nil {
			wrong = append(wrong, fmt.Errorf("%s: %w", k.Name, err))
		}
	}
	return errors.Join(wrong...)
}

func (c Claims[T]) file() string { return filepath.Join(c.Dir, "claims.toml") }

// try loads what p has, and checks it.
func (c Claims[T]) try(p Probe) error {
	if err := os.WriteFile(c.file(), []byte(p.Text), 0o600); err != nil {
		return err
	}
	config := c.Good()
	err := daemon.LoadConfig(c.file(), config)
	if err == nil {
		err = c.Check(config)
	}
	switch {
	case p.Allowed && err != nil:
		return fmt.Errorf("the table allows %q, the code says: %w", p.Text, err)
	case !p.Allowed && err == nil:
		return fmt.Errorf("the table does not allow %q, the code does", p.Text)
	}
	return nil
}

// reload changes k in the file of a daemon that runs, and holds that it says that it needs a restart unless it does not.
func (c Claims[T]) reload(k Key) error {
	var said bytes.Buffer
	log, level, err := daemon.NewLeveledLogger(&said, daemon.LogConfig{})
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.file(), nil, 0o600); err != nil {
		return err
	}
	reload := daemon.NewReload(c.file(), log, level, c.Log)
	if err := os.WriteFile(c.file(), []byte(k.Changed()), 0o600); err != nil {
		return err
	}
	if err := reload(); err != nil {
		return fmt.Errorf("reload with %q: %w", k.Changed(), err)
	}
	if restart := strings.Contains(said.String(), "restart"); restart == k.Reload {
		return fmt.Errorf("the table says reload: %v; the daemon that it needs a restart: %v", k.Reload, restart)
	}
	return nil
}
