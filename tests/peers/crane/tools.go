//go:build tools

// Package peers names the programs that tests run against, so that `go mod tidy` keeps what they need.
package peers

import _ "github.com/google/go-containerregistry/cmd/crane"
