package metrics

import (
	"fmt"
	"net/http"
	"regexp"
	"sync"
)

// ContentType is that of the page.
const ContentType = "text/plain; version=0.0.4; charset=utf-8"

// Registry is what a daemon shows. main makes one and hands it to the parts, which register their groups. The zero value is
// ready.
type Registry struct {
	mu     sync.Mutex
	groups []group
	names  map[string]bool
}

type group interface {
	Families() []Family
	write(p *page)
}

var (
	validName  = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)
	validLabel = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
)

// Register adds groups. A name that is taken or malformed is an error: a mistake in the code.
func (r *Registry) Register(groups ...group) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.names == nil {
		r.names = map[string]bool{}
	}
	for _, g := range groups {
		for _, f := range g.Families() {
			if r.names[f.Name] || !validName.MatchString(f.Name) {
				return fmt.Errorf("metric %q: the name is taken or malformed", f.Name)
			}
			for _, l := range f.Labels {
				if !validLabel.MatchString(l) {
					return fmt.Errorf("metric %s: label %q is malformed", f.Name, l)
				}
			}
			r.names[f.Name] = true
		}
		r.groups = append(r.groups, g)
	}
	return nil
}

// Families are all metrics, in the order of the page.
func (r *Registry) Families() []Family {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []Family
	for _, g := range r.groups {
		list = append(list, g.Families()...)
	}
	return list
}

// Page is what a scrape gets now.
func (r *Registry) Page() ([]byte, error) {
	r.mu.Lock()
	groups := append([]group(nil), r.groups...)
	r.mu.Unlock()
	p := page{}
	for _, g := range groups {
		g.write(&p)
	}
	return p.text, p.err
}

// ServeHTTP answers a scrape.
func (r *Registry) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	text, err := r.Page()
	if err != nil { // a page that lacks something looks like a quiet daemon
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", ContentType)
	_, _ = w.Write(text) // a scraper that has gone asks again
}
