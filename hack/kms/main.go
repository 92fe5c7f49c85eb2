// Writes the descriptors of the KMS v2 service and of the objects that kube-apiserver stores by it
// (names, numbers and types; no comments, no options) as a FileDescriptorSet to the path given.
package main

import (
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	stored "k8s.io/apiserver/pkg/storage/value/encrypt/envelope/kmsv2/v2"
	service "k8s.io/kms/apis/v2"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{}
	add(set, "kms.proto", "v2", (&service.StatusRequest{}).ProtoReflect().Descriptor().ParentFile())
	// Both packages are named v2.
	add(set, "stored.proto", "stored.v2", (&stored.EncryptedObject{}).ProtoReflect().Descriptor().ParentFile())
	out, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err == nil {
		err = os.WriteFile(os.Args[1], out, 0o644)
	}
	if err != nil {
		panic(err)
	}
}

func add(set *descriptorpb.FileDescriptorSet, name, pkg string, f protoreflect.FileDescriptor) {
	d := protodesc.ToFileDescriptorProto(f)
	d.SourceCodeInfo, d.Options = nil, nil
	old := "." + d.GetPackage() + "."
	for _, m := range d.MessageType {
		for _, field := range m.Field {
			if t := field.GetTypeName(); len(t) > len(old) && t[:len(old)] == old {
				field.TypeName = proto.String("." + pkg + "." + t[len(old):])
			}
		}
	}
	d.Name, d.Package = proto.String(name), proto.String(pkg)
	set.File = append(set.File, d)
}
