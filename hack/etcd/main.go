// Writes the descriptors of etcd's KV, Watch and Lease services (names, numbers and types; no
// comments, no options) as a FileDescriptorSet to the path given.
package main

import (
	"os"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
)

func main() {
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	// rpc.proto names its import by another path than the one it is registered under.
	add(set, seen, (&mvccpb.KeyValue{}).ProtoReflect().Descriptor().ParentFile())
	add(set, seen, (&etcdserverpb.PutRequest{}).ProtoReflect().Descriptor().ParentFile())
	prune(set)
	out, err := proto.MarshalOptions{Deterministic: true}.Marshal(set)
	if err == nil {
		err = os.WriteFile(os.Args[1], out, 0o644)
	}
	if err != nil {
		panic(err)
	}
}

func wanted(path string) bool {
	return !strings.HasPrefix(path, "google/") && !strings.HasPrefix(path, "gogoproto/") &&
		!strings.HasPrefix(path, "protoc-gen-") && !strings.Contains(path, "version.proto") && !strings.HasPrefix(path, "versionpb/")
}

func add(set *descriptorpb.FileDescriptorSet, seen map[string]bool, f protoreflect.FileDescriptor) {
	if f.IsPlaceholder() || seen[f.Path()] || !wanted(f.Path()) {
		return
	}
	seen[f.Path()] = true
	for i := 0; i < f.Imports().Len(); i++ {
		add(set, seen, f.Imports().Get(i).FileDescriptor)
	}
	d := protodesc.ToFileDescriptorProto(f)
	d.SourceCodeInfo, d.Options, d.PublicDependency, d.WeakDependency = nil, nil, nil, nil
	var deps []string
	for _, p := range d.Dependency {
		if wanted(p) {
			deps = append(deps, p)
		}
	}
	d.Dependency = deps
	var services []*descriptorpb.ServiceDescriptorProto
	for _, s := range d.Service {
		switch s.GetName() {
		case "KV", "Watch", "Lease":
			s.Options = nil
			for _, m := range s.Method {
				m.Options = nil
			}
			services = append(services, s)
		}
	}
	d.Service = services
	for _, m := range d.MessageType {
		message(m)
	}
	for _, e := range d.EnumType {
		enum(e)
	}
	set.File = append(set.File, d)
}

// prune keeps the messages and enums that the services reach, and the files that hold any.
func prune(set *descriptorpb.FileDescriptorSet) {
	messages := map[string]*descriptorpb.DescriptorProto{}
	for _, f := range set.File {
		for _, m := range f.MessageType {
			messages["."+f.GetPackage()+"."+m.GetName()] = m
		}
	}
	reached := map[string]bool{}
	var visit func(string)
	var fields func(*descriptorpb.DescriptorProto)
	fields = func(m *descriptorpb.DescriptorProto) {
		for _, f := range m.Field {
			visit(f.GetTypeName())
		}
		for _, n := range m.NestedType {
			fields(n)
		}
	}
	visit = func(name string) {
		if name == "" || reached[name] {
			return
		}
		reached[name] = true
		if m := messages[name]; m != nil {
			fields(m)
		}
	}
	for _, f := range set.File {
		for _, s := range f.Service {
			for _, m := range s.Method {
				visit(m.GetInputType())
				visit(m.GetOutputType())
			}
		}
	}
	var files []*descriptorpb.FileDescriptorProto
	kept := map[string]bool{}
	for _, f := range set.File {
		var ms []*descriptorpb.DescriptorProto
		for _, m := range f.MessageType {
			if reached["."+f.GetPackage()+"."+m.GetName()] {
				ms = append(ms, m)
			}
		}
		var es []*descriptorpb.EnumDescriptorProto
		for _, e := range f.EnumType {
			if reached["."+f.GetPackage()+"."+e.GetName()] {
				es = append(es, e)
			}
		}
		f.MessageType, f.EnumType = ms, es
		var deps []string
		for _, d := range f.Dependency {
			if kept[d] {
				deps = append(deps, d)
			}
		}
		f.Dependency = deps
		if len(ms)+len(es)+len(f.Service) > 0 {
			kept[f.GetName()] = true
			files = append(files, f)
		}
	}
	set.File = files
}

func message(m *descriptorpb.DescriptorProto) {
	if !m.GetOptions().GetMapEntry() {
		m.Options = nil
	}
	for _, f := range m.Field {
		f.Options = nil
	}
	for _, n := range m.NestedType {
		message(n)
	}
	for _, e := range m.EnumType {
		enum(e)
	}
}

func enum(e *descriptorpb.EnumDescriptorProto) {
	e.Options = nil
	for _, v := range e.Value {
		v.Options = nil
	}
}
