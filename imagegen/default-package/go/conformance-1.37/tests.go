//go:build tools

// Package conformance names what is compiled as a test program, which `tool` in go.mod cannot name.
package conformance

import _ "k8s.io/kubernetes/test/e2e"
