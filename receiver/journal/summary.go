package journal

// Summary is what there is to say of the points of a journal without a list of them. A point that there is none of is nil.
type Summary struct {
	Points     int    // that View can show
	Unproven   int    // of them: a write before them may have been missed
	Pinned     int    // of them
	Oldest     *Point // of any class
	Newest     *Point // the same
	Consistent *Point // the newest that is one instant of the disk
	Proven     *Point // the newest that is that, and proven
}

// Summary sums the points up.
func (j *Journal) Summary() Summary {
	j.mu.Lock()
	defer j.mu.Unlock()
	var s Summary
	j.eachPoint(func(p Point) {
		s.Points++
		if s.Oldest == nil {
			s.Oldest = &p
		}
		s.Newest = &p
		if p.Class.Consistent() {
			s.Consistent = &p
			if p.Proven() {
				s.Proven = &p
			}
		}
		if !p.Proven() {
			s.Unproven++
		}
		if p.Pinned {
			s.Pinned++
		}
	})
	return s
}
