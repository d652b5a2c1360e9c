package ebpf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"github.com/understudy-dr/understudy/agent/capture"
)

// kernel describes the structures of one release, as far as the programs look at them.
type kernel struct {
	request, queue, bio   *btf.Struct
	completeArgs, bioArgs []btf.FuncParam // of the tracepoints, after their own data
	opEnum                string
}

// at is a member at an offset in bytes.
func at(name string, t btf.Type, off uint32) btf.Member {
	return btf.Member{Name: name, Type: t, Offset: btf.Bits(off * 8)}
}

var (
	u32  = &btf.Int{Name: "unsigned int", Size: 4}
	u64  = &btf.Int{Name: "unsigned long", Size: 8}
	void = &btf.Pointer{Target: &btf.Void{}}
)

// release is a kernel that keeps the pointer to the disk in the named members of request, queue and bio; "" is none.
func release(inRequest, inQueue, inBio string) kernel {
	iter := &btf.Struct{Name: "bvec_iter", Size: 12, Members: []btf.Member{at("bi_sector", u64, 0), at("bi_size", u32, 8)}}
	sectors := &btf.Union{Size: 8, Members: []btf.Member{at("__sector", u64, 0), at("other", u64, 0)}}
	k := kernel{
		request: &btf.Struct{Name: "request", Size: 128},
		queue:   &btf.Struct{Name: "request_queue", Size: 128, Members: []btf.Member{at("elevator", void, 0)}},
		bio: &btf.Struct{Name: "bio", Size: 128, Members: []btf.Member{
			at("bi_next", void, 0), at(inBio, void, 8), at("bi_opf", u32, 16), at("bi_iter", iter, 40),
		}},
		opEnum: "req_op",
	}
	k.request.Members = []btf.Member{
		at("q", &btf.Pointer{Target: k.queue}, 0), at("cmd_flags", u32, 24), at("", sectors, 48), at("bio", void, 56),
	}
	if inRequest != "" {
		k.request.Members = append(k.request.Members, at(inRequest, void, 120))
		k.opEnum = "req_opf"
	}
	if inQueue != "" {
		k.queue.Members = append(k.queue.Members, at(inQueue, void, 104))
	}
	k.completeArgs = []btf.FuncParam{{Name: "rq", Type: &btf.Pointer{Target: k.request}}, {Name: "error", Type: u32}, {Name: "bytes", Type: u32}}
	k.bioArgs = []btf.FuncParam{{Name: "bio", Type: &btf.Pointer{Target: k.bio}}}
	return k
}

// withQueue puts the queue before the arguments, as older tracepoints do.
func (k kernel) withQueue() kernel {
	queue := btf.FuncParam{Name: "q", Type: &btf.Pointer{Target: k.queue}}
	k.completeArgs = append([]btf.FuncParam{queue}, k.completeArgs...)
	k.bioArgs = append([]btf.FuncParam{queue}, k.bioArgs...)
	return k
}

func (k kernel) spec(t *testing.T) *btf.Spec {
	t.Helper()
	var ops []btf.EnumValue
	for i, name := range []string{
		"READ", "WRITE", "FLUSH", "DISCARD", "SECURE_ERASE", "WRITE_ZEROES", "ZONE_APPEND", "DRV_IN", "DRV_OUT",
	} {
		ops = append(ops, btf.EnumValue{Name: "REQ_OP_" + name, Value: uint64(i * 3)})
	}
	tracepoint := func(name string, args []btf.FuncParam) *btf.Typedef {
		params := append([]btf.FuncParam{{Name: "__data", Type: void}}, args...)
		return &btf.Typedef{Name: "btf_trace_" + name, Type: &btf.Pointer{Target: &btf.FuncProto{Return: &btf.Void{}, Params: params}}}
	}
	b, err := btf.NewBuilder([]btf.Type{
		k.request, k.queue, k.bio,
		&btf.Struct{Name: "gendisk", Size: 8, Members: []btf.Member{at("major", u32, 0), at("first_minor", u32, 4)}},
		&btf.Struct{Name: "block_device", Size: 64, Members: []btf.Member{at("bd_disk", void, 32)}},
		&btf.Enum{Name: k.opEnum, Size: 4, Values: ops},
		tracepoint("block_rq_complete", k.completeArgs),
		tracepoint("block_bio_queue", k.bioArgs),
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := b.Marshal(nil, &btf.MarshalOptions{Order: binary.LittleEndian})
	if err != nil {
		t.Fatal(err)
	}
	spec, err := btf.LoadSpecFromReader(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestFieldsOfOtherKernels reads each release's places from its own description.
func TestFieldsOfOtherKernels(t *testing.T) {
	for name, row := range map[string]struct {
		k                                                                 kernel
		argRequest, argBytes, argBio, rqDisk, queueDisk, bioDisk, bioBdev int
	}{
		"5.8":  {release("rq_disk", "", "bi_disk").withQueue(), 1, 3, 1, 120, -1, 8, -1},
		"5.10": {release("rq_disk", "", "bi_disk"), 0, 2, 0, 120, -1, 8, -1},
		"5.15": {release("rq_disk", "disk", "bi_bdev"), 0, 2, 0, 120, 104, -1, 8},
		"6.1":  {release("", "disk", "bi_bdev"), 0, 2, 0, -1, 104, -1, 8},
	} {
		f, err := fieldsOf(row.k.spec(t))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := []int{f.argRequest, f.argBytes, f.argBio, f.rqDisk, f.queueDisk, f.bioDisk, f.bioBdev}
		want := []int{row.argRequest, row.argBytes, row.argBio, row.rqDisk, row.queueDisk, row.bioDisk, row.bioBdev}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if f.rqSector != 48 || f.bioSector != 40 || f.bioSize != 48 || f.opWrite != 3 || f.opDriverOut != 24 {
			t.Errorf("%s: sector %d, bio's %d and size %d, operations %d and %d", name, f.rqSector, f.bioSector, f.bioSize, f.opWrite, f.opDriverOut)
		}
	}
}

// TestAMissingFieldIsNamed: in one line, as a host that can't be tracked.
func TestAMissingFieldIsNamed(t *testing.T) {
	_, err := fieldsOf(release("", "", "bi_bdev").spec(t))
	if !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "neither the request nor its queue names the disk") {
		t.Errorf("no disk: %v", err)
	}
	k := release("", "disk", "bi_bdev")
	k.completeArgs = k.completeArgs[1:]
	if _, err = fieldsOf(k.spec(t)); !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "tracepoint block_rq_complete has no request") {
		t.Errorf("no request: %v", err)
	}
}
