package main

import (
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/packaging/sample"
)

// TestTheSampleConfiguration: the packaged file says nothing as it is. Without its # it has every key there is, and the defaults,
// but for what has none.
func TestTheSampleConfiguration(t *testing.T) {
	got, want := newConfig(), newConfig()
	runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &got)
	runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &want)
	if err := sample.Load("../../packaging/etc/agent.toml", t.TempDir(), &got); err != nil {
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
