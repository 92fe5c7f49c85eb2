//go:build tools

// Package peer names the programs that the tests build.
package peer

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "go.etcd.io/etcd/etcdctl/v3"
)
