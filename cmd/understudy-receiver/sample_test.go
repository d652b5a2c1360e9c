package main

import (
	"reflect"
	"testing"

	"github.com/spf13/pflag"

	"github.com/understudy-dr/understudy/packaging/sample"
)

// TestTheSampleConfiguration: the packaged file says nothing as it is. Without its # it has every key there is, and the defaults.
func TestTheSampleConfiguration(t *testing.T) {
	var got, want config
	runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &got)
	runFlags(pflag.NewFlagSet("", pflag.ContinueOnError), &want)
	if err := sample.Load("../../packaging/etc/receiver.toml", t.TempDir(), &got); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("the sample's defaults\n%+v\nare not those of the flags\n%+v", got, want)
	}
}
