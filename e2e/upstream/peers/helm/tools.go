//go:build tools

// Package peer names the programs that the tests build.
package peer

import (
	_ "helm.sh/helm/v4/cmd/helm"
)
