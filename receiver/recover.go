package receiver

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/understudy-dr/understudy/internal/wire"
	"github.com/understudy-dr/understudy/receiver/journal"
)

// selectPoint finds what an operator calls a point: "latest", "#412", or an RFC 3339 time, which means the newest point at
// or before it. Only a number means a point that was read while writes went on. points are in the order of their time.
func selectPoint(points []journal.Point, selector string) (journal.Point, error) {
	none := journal.Point{}
	if len(points) == 0 {
		return none, wire.Errorf(wire.CodeNoPoint, "the disk has no recovery point yet")
	}
	if selector == "" || selector == "latest" {
		return newestConsistent(points)
	}
	if digits, ok := strings.CutPrefix(selector, "#"); ok {
		n, err := strconv.ParseUint(digits, 10, 64)
		if err != nil {
			return none, wire.Errorf(wire.CodeNoPoint, "%q is no point: say latest, #412 or a time such as 2026-01-31T12:00:00Z", selector)
		}
		return selectSeq(points, n)
	}
	at, err := time.Parse(time.RFC3339Nano, selector)
	if err != nil {
		return none, wire.Errorf(wire.CodeNoPoint, "%q is no point: say latest, #412 or a time such as 2026-01-31T12:00:00Z", selector)
	}
	before := 0
	for before < len(points) && !points[before].Time.After(at) {
		before++
	}
	if before == 0 {
		return none, wire.Errorf(wire.CodeNoPoint, "no point at or before %s; the oldest is %s", selector, describe(points[0]))
	}
	return newestConsistent(points[:before])
}

// newestConsistent is what "latest" means: never a point that was read while writes went on. points are not empty.
func newestConsistent(points []journal.Point) (journal.Point, error) {
	for _, p := range slices.Backward(points) {
		if p.Class.Consistent() {
			return p, nil
		}
	}
	return journal.Point{}, wire.Errorf(wire.CodeNoPoint, "no point by then is consistent; the newest is %s, of class %v: ask for it by number if it must do",
		describe(points[len(points)-1]), points[len(points)-1].Class)
}

// selectSeq finds point number n, or names the nearest there are.
func selectSeq(points []journal.Point, n uint64) (journal.Point, error) {
	var near []string
	for i, p := range points {
		switch {
		case uint64(p.Seq) == n:
			return p, nil
		case uint64(p.Seq) > n:
			if i > 0 {
				near = append(near, describe(points[i-1]))
			}
			near = append(near, describe(p))
			return journal.Point{}, wire.Errorf(wire.CodeNoPoint, "there is no point #%d; nearest: %s", n, strings.Join(near, ", "))
		}
	}
	return journal.Point{}, wire.Errorf(wire.CodeNoPoint, "there is no point #%d; the newest is %s", n, describe(points[len(points)-1]))
}

func describe(p journal.Point) string {
	return fmt.Sprintf("%v (%s)", p.Seq, p.Time.Format(time.RFC3339))
}
