package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// The parts of CycloneDX 1.5 that are used (https://cyclonedx.org/docs/1.5/json/).
type (
	bom struct {
		Format       string       `json:"bomFormat"`
		Spec         string       `json:"specVersion"`
		Version      int          `json:"version"`
		Metadata     metadata     `json:"metadata"`
		Components   []component  `json:"components"`
		Dependencies []dependency `json:"dependencies"`
	}
	metadata struct {
		Timestamp string    `json:"timestamp"`
		Component component `json:"component"`
	}
	component struct {
		Ref        string          `json:"bom-ref"`
		Type       string          `json:"type"`
		Name       string          `json:"name"`
		Version    string          `json:"version"`
		PURL       string          `json:"purl"`
		Licences   []licenceChoice `json:"licenses"`
		Properties []property      `json:"properties,omitempty"`
	}
	licenceChoice struct {
		Licence licenceID `json:"license"`
	}
	licenceID struct {
		ID string `json:"id"`
	}
	property struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	dependency struct {
		Ref       string   `json:"ref"`
		DependsOn []string `json:"dependsOn"`
	}
)

// cyclonedx is the bill of materials of one binary.
func cyclonedx(name, version string, at time.Time, info *buildinfo.BuildInfo, modules []module) ([]byte, error) {
	self := component{
		Type: "application", Name: name, Version: version,
		PURL:     fmt.Sprintf("pkg:golang/%s@%s#%s", info.Main.Path, version, strings.TrimPrefix(info.Path, info.Main.Path+"/")),
		Licences: []licenceChoice{{licenceID{"Apache-2.0"}}},
	}
	self.Ref = self.PURL
	for _, s := range info.Settings {
		if s.Key == "GOARCH" || s.Key == "GOOS" || s.Key == "CGO_ENABLED" {
			self.Properties = append(self.Properties, property{"build:" + s.Key, s.Value})
		}
	}
	b := bom{Format: "CycloneDX", Spec: "1.5", Version: 1, Metadata: metadata{at.Format(time.RFC3339), self}}
	needs := dependency{Ref: self.Ref}
	for _, m := range modules {
		c := component{Type: "library", Name: m.path, Version: m.version, PURL: "pkg:golang/" + m.path + "@" + m.version}
		c.Ref = c.PURL
		for _, l := range m.licences {
			for _, id := range l.ids {
				c.Licences = append(c.Licences, licenceChoice{licenceID{id}})
			}
		}
		b.Components = append(b.Components, c)
		needs.DependsOn = append(needs.DependsOn, c.Ref)
	}
	b.Dependencies = []dependency{needs}
	text, err := json.MarshalIndent(b, "", "  ")
	return append(text, '\n'), err
}

// licences is the text that goes with a binary.
func licences(name string, modules []module) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s holds code of these modules, under their licences:\n\n", name)
	for _, m := range modules {
		fmt.Fprintf(&b, "  %s %s\n", m.path, m.version)
	}
	for _, m := range modules {
		for _, l := range m.licences {
			fmt.Fprintf(&b, "\n%s\n%s %s: %s\n%s\n\n%s", strings.Repeat("=", 80), m.path, m.version, l.file, strings.Repeat("=", 80), l.text)
		}
	}
	return b.Bytes()
}
