package keys

import (
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Probe is a configuration that sets one key, for a test of what its table says.
type Probe struct {
	Text    string // in TOML
	Allowed bool   // by the table
}

// Probes tries what the table allows of k: at its limits and just outside of them, and each of its values and none of them. In a
// table of which there may be several, base is what each must have besides.
func (k Key) Probes(base string) []Probe {
	var all []Probe
	add := func(value string, allowed bool) {
		all = append(all, Probe{k.Setting(k.quoted(value), base), allowed})
	}
	for _, v := range k.Values {
		add(v, true)
	}
	if k.Values != nil {
		add("none-of-these", false)
	}
	if k.Least != "" {
		add(k.Least, true)
		add(k.step(k.Least, -1), false)
	}
	if k.Most != "" {
		add(k.Most, true)
		add(k.step(k.Most, 1), false)
	}
	return all
}

// Changed is a configuration that sets k to something else than nothing, that can be decoded.
func (k Key) Changed() string {
	t := k.value.Type()
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case k.Values != nil:
		return k.Setting(k.quoted(k.Values[0]), "")
	case k.Default != "":
		return k.Setting(k.quoted(k.Default), "")
	case k.Type == "duration":
		return k.Setting(`"1s"`, "")
	case k.Type == "integer":
		return k.Setting("1", "")
	case k.Type == "boolean":
		return k.Setting("true", "")
	case t.Kind() == reflect.Slice:
		return k.Setting(`["x"]`, "")
	case t.Kind() == reflect.Map:
		return k.Setting(`{ x = "y" }`, "")
	}
	return k.Setting(`"x"`, "")
}

// Setting is a configuration that sets k to value; base is what else its table has.
func (k Key) Setting(value, base string) string {
	head := ""
	if k.Table != "" {
		head = k.Table + "\n" + base
	}
	return fmt.Sprintf("%s%s = %s\n", head, k.Name[strings.LastIndex(k.Name, ".")+1:], value)
}

func (k Key) quoted(value string) string {
	if k.Type == "integer" || k.Type == "boolean" {
		return value
	}
	return strconv.Quote(value)
}

// step is the next value up or down: a nanosecond, or one.
func (k Key) step(value string, by int64) string {
	if d, err := time.ParseDuration(value); err == nil && k.Type == "duration" {
		return (d + time.Duration(by)).String()
	}
	n, _ := strconv.ParseInt(value, 10, 64)
	return strconv.FormatInt(n+by, 10)
}
