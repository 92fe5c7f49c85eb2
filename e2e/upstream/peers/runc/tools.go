//go:build tools

// Package peer names the programs that the tests build.
package peer

import (
	_ "github.com/opencontainers/runc"
)
