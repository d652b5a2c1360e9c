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
	request, queue, bio       *btf.Struct
	completeArgs, requestArgs []btf.FuncParam // of the tracepoints, after their own data
	opEnum                    string
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

// release is a kernel that keeps the pointer to the disk in the named members of request and queue; "" is none.
func release(inRequest, inQueue string) kernel {
	iter := &btf.Struct{Name: "bvec_iter", Size: 12, Members: []btf.Member{at("bi_sector", u64, 0), at("bi_size", u32, 8)}}
	sectors := &btf.Union{Size: 8, Members: []btf.Member{at("__sector", u64, 0), at("other", u64, 0)}}
	hctx := &btf.Struct{Name: "blk_mq_hw_ctx", Size: 64, Members: []btf.Member{at("queue_num", u32, 16)}}
	k := kernel{
		request: &btf.Struct{Name: "request", Size: 128},
		queue:   &btf.Struct{Name: "request_queue", Size: 128, Members: []btf.Member{at("elevator", void, 0)}},
		bio: &btf.Struct{Name: "bio", Size: 128, Members: []btf.Member{
			at("bi_next", void, 0), at("bi_iter", iter, 40),
		}},
		opEnum: "req_op",
	}
	k.request.Members = []btf.Member{
		at("q", &btf.Pointer{Target: k.queue}, 0), at("cmd_flags", u32, 24), at("", sectors, 48), at("bio", void, 56),
		at("mq_hctx", &btf.Pointer{Target: hctx}, 64), at("__data_len", u32, 72), at("start_time_ns", u64, 80),
		at("tag", u32, 88), at("internal_tag", u32, 92),
	}
	if inRequest != "" {
		k.request.Members = append(k.request.Members, at(inRequest, void, 120))
		k.opEnum = "req_opf"
	}
	if inQueue != "" {
		k.queue.Members = append(k.queue.Members, at(inQueue, void, 104))
	}
	k.completeArgs = []btf.FuncParam{{Name: "rq", Type: &btf.Pointer{Target: k.request}}, {Name: "error", Type: u32}, {Name: "bytes", Type: u32}}
	k.requestArgs = []btf.FuncParam{{Name: "rq", Type: &btf.Pointer{Target: k.request}}}
	return k
}

// withQueue puts the queue before the arguments, as older tracepoints do.
func (k kernel) withQueue() kernel {
	queue := btf.FuncParam{Name: "q", Type: &btf.Pointer{Target: k.queue}}
	k.completeArgs = append([]btf.FuncParam{queue}, k.completeArgs...)
	k.requestArgs = append([]btf.FuncParam{queue}, k.requestArgs...)
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
		&btf.Enum{Name: k.opEnum, Size: 4, Values: ops},
		tracepoint("block_rq_complete", k.completeArgs),
		tracepoint("block_rq_issue", k.requestArgs),
		tracepoint("block_rq_requeue", k.requestArgs),
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
		k                                                 kernel
		argRequest, argBytes, argIssue, rqDisk, queueDisk int
	}{
		"5.8":  {release("rq_disk", "").withQueue(), 1, 3, 1, 120, -1},
		"5.10": {release("rq_disk", ""), 0, 2, 0, 120, -1},
		"5.15": {release("rq_disk", "disk"), 0, 2, 0, 120, 104},
		"6.1":  {release("", "disk"), 0, 2, 0, -1, 104},
	} {
		f, err := fieldsOf(row.k.spec(t))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := []int{f.argRequest, f.argBytes, f.argIssue, f.rqDisk, f.queueDisk}
		want := []int{row.argRequest, row.argBytes, row.argIssue, row.rqDisk, row.queueDisk}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if f.argRequeue != f.argIssue || f.rqHctx != 64 || f.hctxNumber != 16 || f.rqSize != 72 || f.rqStart != 80 || f.rqTag != 88 || f.rqInternalTag != 92 {
			t.Errorf("%s: the table's places are %+v", name, f)
		}
		if f.rqSector != 48 || f.bioSector != 40 || f.bioSize != 48 || f.opWrite != 3 || f.opDriverOut != 24 {
			t.Errorf("%s: sector %d, bio's %d and size %d, operations %d and %d", name, f.rqSector, f.bioSector, f.bioSize, f.opWrite, f.opDriverOut)
		}
	}
}

// TestAMissingFieldIsNamed: in one line, as a host that can't be tracked.
func TestAMissingFieldIsNamed(t *testing.T) {
	_, err := fieldsOf(release("", "").spec(t))
	if !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "neither the request nor its queue names the disk") {
		t.Errorf("no disk: %v", err)
	}
	k := release("", "disk")
	k.completeArgs = k.completeArgs[1:]
	if _, err = fieldsOf(k.spec(t)); !errors.Is(err, capture.ErrUnsupported) || !strings.Contains(err.Error(), "tracepoint block_rq_complete has no request") {
		t.Errorf("no request: %v", err)
	}
}
