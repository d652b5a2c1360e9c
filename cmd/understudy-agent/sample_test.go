package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/internal/daemon"
	"github.com/understudy-dr/understudy/packaging/sample"
)

// TestTheSampleConfiguration: the packaged file says nothing as it is. Without its # it has every key there is, and the defaults,
// but for what has none.
func TestTheSampleConfiguration(t *testing.T) {
	const packaged = "../../packaging/etc/agent.toml"
	var as config
	if err := daemon.LoadConfig(packaged, &as); err != nil || !reflect.DeepEqual(as, config{}) {
		t.Fatalf("as it is packaged: %+v, %v", as, err)
	}
	text, err := sample.Uncomment(packaged)
	if err != nil {
		t.Fatal(err)
	}
	if missing, err := sample.Missing(text, daemon.ConfigKeys(&as)); err != nil || len(missing) > 0 {
		t.Errorf("not in the sample: %q, %v", missing, err)
	}
	path := filepath.Join(t.TempDir(), "agent.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, want := newConfig(), newConfig()
	runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &got)
	runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &want)
	if err := daemon.LoadConfig(path, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Disks) != 1 || got.Receiver == "" || got.Host == "" || len(got.Applications) != 1 {
		t.Errorf("what has no default: %+v", got)
	}
	got.Disks, got.Receiver, got.Host, got.Applications = nil, "", "", nil
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the sample's defaults\n%+v\nare not those of the flags\n%+v", got, want)
	}
}
