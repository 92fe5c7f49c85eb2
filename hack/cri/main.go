// Writes the CRI v1 file descriptors (names, numbers and types; no comments)
// as a FileDescriptorSet to the path given.
package main

import (
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{}
	add(set, map[string]bool{}, runtimeapi.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto)
	out, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err == nil {
		err = os.WriteFile(os.Args[1], out, 0o644)
	}
	if err != nil {
		panic(err)
	}
}

// Dependencies come before the file that imports them.
func add(set *descriptorpb.FileDescriptorSet, seen map[string]bool, f protoreflect.FileDescriptor) {
	if seen[f.Path()] {
		return
	}
	seen[f.Path()] = true
	for i := 0; i < f.Imports().Len(); i++ {
		add(set, seen, f.Imports().Get(i).FileDescriptor)
	}
	d := protodesc.ToFileDescriptorProto(f)
	d.SourceCodeInfo = nil
	set.File = append(set.File, d)
}
