package harness

import (
	"fmt"
	"hash/crc32"
	"strings"

	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Normal turns answers into text in which two equal servers cannot differ: revisions are shown
// relative to Base, identities by the names given to them, and what only time or place decides is
// reduced to whether it is there.
type Normal struct {
	Base  int64             // revisions are printed as +n or -n from here
	Names map[uint64]string // identities (member ids, chosen lease ids)
	Text  *strings.Replacer // what else differs by place: URLs
}

// Name gives an identity a name; the first name wins.
func (n *Normal) Name(id uint64, name string) {
	if n.Names == nil {
		n.Names = map[uint64]string{}
	}
	if _, known := n.Names[id]; !known {
		n.Names[id] = name
	}
}

var revisionFields = map[string]bool{
	"revision": true, "mod_revision": true, "create_revision": true,
	"compact_revision": true, "hash_revision": true,
}

// Fields that two right servers may fill differently; only their presence is compared.
var presenceFields = map[string]bool{
	"cluster_id": true, "raft_term": true, "raftTerm": true, "raftIndex": true,
	"raftAppliedIndex": true, "dbSize": true, "dbSizeInUse": true,
}

var identityFields = map[string]bool{
	"member_id": true, "memberID": true, "ID": true, "lease": true, "leader": true,
}

// Revision shows one revision relative to the base.
func (n *Normal) Revision(revision int64) string {
	if revision <= 0 {
		return fmt.Sprintf("=%d", revision)
	}
	return fmt.Sprintf("%+d", revision-n.Base)
}

// Identity shows one identity by its name, or as it is.
func (n *Normal) Identity(id uint64) string {
	if name, ok := n.Names[id]; ok {
		return name
	}
	return fmt.Sprint(int64(id))
}

// Bytes shows bytes, long ones by their start, length and checksum.
func Bytes(b []byte) string {
	if len(b) > 64 {
		return fmt.Sprintf("%q...(%d bytes, crc %08x)", b[:16], len(b), crc32.ChecksumIEEE(b))
	}
	return fmt.Sprintf("%q", b)
}

// Error shows an error as a client sees it: gRPC code and message.
func Error(err error) string {
	if err == nil {
		return "ok"
	}
	text := err.Error()
	if s, ok := status.FromError(err); ok {
		text = fmt.Sprintf("%s: %s", s.Code(), s.Message())
	}
	// Go's protobuf writes "proto:" with one of two kinds of space, chosen at build time.
	return strings.ReplaceAll(text, "\u00a0", " ")
}

// Message shows an answer.
func (n *Normal) Message(message proto.Message) string {
	var b strings.Builder
	n.message(&b, message.ProtoReflect())
	if n.Text != nil {
		return n.Text.Replace(b.String())
	}
	return b.String()
}

func (n *Normal) message(b *strings.Builder, m protoreflect.Message) {
	b.WriteByte('{')
	first := true
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		field := fields.Get(i)
		if !m.Has(field) {
			continue
		}
		if !first {
			b.WriteByte(' ')
		}
		first = false
		b.WriteString(string(field.Name()))
		b.WriteByte(':')
		value := m.Get(field)
		if !field.IsList() {
			n.value(b, field, value)
			continue
		}
		b.WriteByte('[')
		list := value.List()
		for j := range list.Len() {
			if j > 0 {
				b.WriteByte(' ')
			}
			n.value(b, field, list.Get(j))
		}
		b.WriteByte(']')
	}
	b.WriteByte('}')
}

func (n *Normal) value(b *strings.Builder, f protoreflect.FieldDescriptor, v protoreflect.Value) {
	name := string(f.Name())
	switch {
	case presenceFields[name]:
		b.WriteByte('#')
	case revisionFields[name] && f.Kind() == protoreflect.Int64Kind:
		b.WriteString(n.Revision(v.Int()))
	case identityFields[name] && f.Kind() == protoreflect.Int64Kind:
		b.WriteString(n.Identity(uint64(v.Int())))
	case identityFields[name] && f.Kind() == protoreflect.Uint64Kind:
		b.WriteString(n.Identity(v.Uint()))
	case f.Kind() == protoreflect.MessageKind:
		n.message(b, v.Message())
	case f.Kind() == protoreflect.BytesKind:
		b.WriteString(Bytes(v.Bytes()))
	case f.Kind() == protoreflect.EnumKind:
		if d := f.Enum().Values().ByNumber(v.Enum()); d != nil {
			b.WriteString(string(d.Name()))
		} else {
			fmt.Fprint(b, v.Enum())
		}
	default:
		fmt.Fprintf(b, "%v", v.Interface())
	}
}
