package ebpf

import (
	"fmt"

	"github.com/cilium/ebpf/btf"

	"github.com/understudy-dr/understudy/agent/capture"
)

// fields are the places in the running kernel's structures that the programs read, from its BTF. They differ from one
// release to the next, and so does what a tracepoint hands over.
type fields struct {
	// of block_rq_complete: where in the arguments the request and the number of bytes are
	argRequest, argBytes int
	// of block_rq_issue and block_rq_requeue
	argIssue, argRequeue int

	rqQueue, rqDisk                   int // struct request; rqDisk is -1 from 5.17 on, where the queue has it
	rqSector, rqFlags, rqBio          int
	rqSize, rqStart                   int // bytes that are left of it; when it was made, in ns
	rqTag, rqInternalTag, rqHctx      int
	hctxNumber                        int // struct blk_mq_hw_ctx
	queueDisk                         int // struct request_queue; -1 before 5.15
	diskMajor, diskMinor              int // struct gendisk
	bioNext, bioSector, bioSize       int // struct bio
	opWrite, opDiscard, opSecureErase int64
	opZeroes, opZoneAppend            int64 // opZoneAppend is -1 where there is none
	opDriverIn, opDriverOut           int64
}

// reader looks things up in BTF and keeps the first error.
type reader struct {
	spec *btf.Spec
	err  error
}

func (r *reader) fail(format string, args ...any) int {
	if r.err == nil {
		r.err = fmt.Errorf("this kernel's BTF: "+format+": %w", append(args, capture.ErrUnsupported)...)
	}
	return -1
}

// optional is the offset in bytes of a member, which may be in an embedded struct, or -1.
func (r *reader) optional(name string, path ...string) int {
	var st *btf.Struct
	if err := r.spec.TypeByName(name, &st); err != nil {
		return -1
	}
	off := 0
	for i, member := range path {
		m, at := findMember(st.Members, member)
		if m == nil {
			return -1
		}
		off += at
		if i < len(path)-1 {
			var ok bool
			if st, ok = btf.UnderlyingType(m.Type).(*btf.Struct); !ok {
				return -1
			}
		}
	}
	return off
}

// findMember looks through anonymous structs and unions as well.
func findMember(members []btf.Member, name string) (*btf.Member, int) {
	for i := range members {
		m := &members[i]
		if m.Name == name {
			return m, int(m.Offset.Bytes())
		}
		if m.Name != "" {
			continue
		}
		var inner []btf.Member
		switch t := btf.UnderlyingType(m.Type).(type) {
		case *btf.Struct:
			inner = t.Members
		case *btf.Union:
			inner = t.Members
		}
		if found, at := findMember(inner, name); found != nil {
			return found, int(m.Offset.Bytes()) + at
		}
	}
	return nil, 0
}

func (r *reader) member(name string, path ...string) int {
	off := r.optional(name, path...)
	if off < 0 {
		return r.fail("struct %s has no %v", name, path)
	}
	return off
}

// value is the number of an enumerator of the request operations, or -1.
func (r *reader) value(name string) int64 {
	for _, enum := range []string{"req_op", "req_opf"} {
		var e *btf.Enum
		if r.spec.TypeByName(enum, &e) != nil {
			continue
		}
		for _, v := range e.Values {
			if v.Name == name {
				return int64(v.Value)
			}
		}
	}
	return -1
}

func (r *reader) op(name string) int64 {
	v := r.value(name)
	if v < 0 {
		r.fail("no operation %s", name)
	}
	return v
}

// argument is the index of the tracepoint's argument that points to a struct of that name.
func (r *reader) argument(tracepoint, structName string) int {
	var td *btf.Typedef
	if err := r.spec.TypeByName("btf_trace_"+tracepoint, &td); err != nil {
		return r.fail("no tracepoint %s", tracepoint)
	}
	ptr, ok := td.Type.(*btf.Pointer)
	if !ok {
		return r.fail("tracepoint %s is no function", tracepoint)
	}
	proto, ok := ptr.Target.(*btf.FuncProto)
	if !ok {
		return r.fail("tracepoint %s is no function", tracepoint)
	}
	for i, p := range proto.Params[1:] { // the first is the tracepoint's own data
		if target, ok := btf.UnderlyingType(p.Type).(*btf.Pointer); ok {
			if st, ok := btf.UnderlyingType(target.Target).(*btf.Struct); ok && st.Name == structName {
				return i
			}
		}
	}
	return r.fail("tracepoint %s has no %s", tracepoint, structName)
}

// readFields finds everything in the running kernel's BTF, or says what is missing.
func readFields() (fields, error) {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return fields{}, fmt.Errorf("this kernel has no BTF (/sys/kernel/btf/vmlinux): one built with CONFIG_DEBUG_INFO_BTF, as all current distributions' are, is needed: %w: %w", err, capture.ErrUnsupported)
	}
	return fieldsOf(spec)
}

func fieldsOf(spec *btf.Spec) (fields, error) {
	r := &reader{spec: spec}
	f := fields{
		argRequest: r.argument("block_rq_complete", "request"),
		argIssue:   r.argument("block_rq_issue", "request"),
		argRequeue: r.argument("block_rq_requeue", "request"),
		rqQueue:    r.member("request", "q"),
		rqDisk:     r.optional("request", "rq_disk"),
		rqSector:   r.member("request", "__sector"),
		rqFlags:    r.member("request", "cmd_flags"),
		rqBio:      r.member("request", "bio"),
		rqSize:     r.member("request", "__data_len"),
		rqStart:    r.member("request", "start_time_ns"),
		rqTag:      r.member("request", "tag"),
		rqHctx:     r.member("request", "mq_hctx"),
		hctxNumber: r.member("blk_mq_hw_ctx", "queue_num"),
		queueDisk:  r.optional("request_queue", "disk"),
		diskMajor:  r.member("gendisk", "major"),
		diskMinor:  r.member("gendisk", "first_minor"),
		bioNext:    r.member("bio", "bi_next"),
		bioSector:  r.member("bio", "bi_iter", "bi_sector"),
		bioSize:    r.member("bio", "bi_iter", "bi_size"),

		rqInternalTag: r.member("request", "internal_tag"),

		opWrite: r.op("REQ_OP_WRITE"), opDiscard: r.op("REQ_OP_DISCARD"), opSecureErase: r.op("REQ_OP_SECURE_ERASE"),
		opZeroes: r.op("REQ_OP_WRITE_ZEROES"), opZoneAppend: r.value("REQ_OP_ZONE_APPEND"),
		opDriverIn: r.op("REQ_OP_DRV_IN"), opDriverOut: r.op("REQ_OP_DRV_OUT"),
	}
	f.argBytes = f.argRequest + 2 // (rq, error, bytes)
	if f.rqDisk < 0 && f.queueDisk < 0 {
		r.fail("neither the request nor its queue names the disk")
	}
	return f, r.err
}
