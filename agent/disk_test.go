package agent

import (
	"errors"
	"testing"
)

// TestALinkThatIsLostShows: whichever state a disk was in when the link broke, it is not shown as protected after it.
func TestALinkThatIsLostShows(t *testing.T) {
	for _, was := range states {
		a, err := New(Config{Disks: []string{"/dev/null"}}, Parts{})
		if err != nil {
			t.Fatal(err)
		}
		d := &disk{status: DiskStatus{State: was}}
		a.disks = []*disk{d}
		a.setLink(nil, errors.New("the peer is gone"))
		want := StateWaiting
		if was == StateFenced {
			want = StateFenced
		}
		if d.status.State != want {
			t.Errorf("a disk that was %s is shown as %s", was, d.status.State)
		}
	}
}
