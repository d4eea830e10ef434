package main

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBuildFacts(t *testing.T) {
	want := buildFacts{
		Version: "unknown", Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
		Revision: "0123abcd", Time: "2026-11-28T12:00:00Z", Modified: true,
	}
	got := factsOf(&debug.BuildInfo{Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "0123abcd"}, {Key: "vcs.time", Value: "2026-11-28T12:00:00Z"}, {Key: "vcs.modified", Value: "true"},
	}})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	want.Revision, want.Time, want.Modified = "", "", false
	if diff := cmp.Diff(want, factsOf(nil)); diff != "" {
		t.Error(diff)
	}
}
