//go:build tools

// Package peer names the programs that the tests build.
package peer

import (
	_ "sigs.k8s.io/cri-tools/cmd/crictl"
)
