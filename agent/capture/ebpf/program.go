package ebpf

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// The programs in this file are loaded into the kernel, whose helpers ask for a GPL-compatible licence; hence "Dual MIT/GPL"
// for this file, unlike the rest of the project.

// license is what the kernel is told.
const license = "Dual MIT/GPL"

// maxCoarse bounds the loop over coarse words: a request of 4 GiB, the largest there is, touches 257 of them at 4 KiB and 2049
// at 512 bytes. What exceeds it is counted and makes the audit fail.
const maxCoarse = 2050

// maxBios bounds the walk over a discard's ranges.
const maxBios = 256

// target is what one program marks.
type target struct {
	fields         fields
	major, minor   int64
	start, sectors int64 // the tracked part of the disk in sectors
	shift          int64 // log2 of the sectors in a block
	layout         layout
	table          table
	copyIndex      int // which counters are its
	mapFD          int
}

// Registers, and slots on the stack. The helper clobbers R0 to R5, so what must stay is in R6 to R9 or on the stack.
const (
	slotKey   = -4
	slotFirst = -16 // first block, then first coarse index
	slotLast  = -24
	slotOp    = -32
	slotMask  = -48
	slotEnd   = -56
	slotRq    = -64
	slotEntry = -72 // index of the request's entry in the table of writes in flight
	slotCount = -80
)

func load64(dst, src asm.Register, off int) asm.Instruction {
	return asm.LoadMem(dst, src, int16(off), asm.DWord)
}

func load32(dst, src asm.Register, off int) asm.Instruction {
	return asm.LoadMem(dst, src, int16(off), asm.Word)
}

func spill(slot int16, src asm.Register) asm.Instruction {
	return asm.StoreMem(asm.RFP, slot, src, asm.DWord)
}

func fill(dst asm.Register, slot int16) asm.Instruction {
	return asm.LoadMem(dst, asm.RFP, slot, asm.DWord)
}

// orAtomic is *(u64*)dst |= src, atomically. The library encodes its OrAtomic as an atomic ADD unless the constant says
// otherwise (BPF_OR is 0x40).
func orAtomic(dst, src asm.Register) asm.Instruction {
	ins := asm.OrAtomic.Mem(dst, src, asm.DWord, 0)
	ins.Constant = 0x40
	return ins
}

// lookup leaves the address of the map's word whose index is in R1 in R0, or jumps to "out".
func (t target) lookup() asm.Instructions {
	return asm.Instructions{
		asm.StoreMem(asm.RFP, slotKey, asm.R1, asm.Word),
		asm.LoadMapPtr(asm.R1, t.mapFD),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, slotKey),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "out"),
	}
}

// count adds R7 to a counter of this copy.
func (t target) count(counter int) asm.Instructions {
	ins := asm.Instructions{asm.Mov.Imm(asm.R1, int32(t.layout.counter(t.copyIndex, counter)))}
	ins = append(ins, t.lookup()...)
	return append(ins, asm.AddAtomic.Mem(asm.R0, asm.R7, asm.DWord, 0))
}

// countOne adds 1 to a counter and ends.
func (t target) countOne(label string, counter int) asm.Instructions {
	ins := asm.Instructions{asm.Mov.Imm(asm.R7, 1).WithSymbol(label)}
	ins = append(ins, t.count(counter)...)
	return append(ins, asm.Ja.Label("out"))
}

// orWord ors the mask in slotMask into the map's word in R1, unless the bits are set already.
func (t target) orWord(skip string) asm.Instructions {
	return append(t.lookup(),
		fill(asm.R2, slotMask),
		load64(asm.R1, asm.R0, 0),
		asm.And.Reg(asm.R1, asm.R2),
		asm.JEq.Reg(asm.R1, asm.R2, skip),
		orAtomic(asm.R0, asm.R2),
	)
}

// request leaves argument arg, a request of the target's disk, in R6; of another disk, it ends.
func (t target) request(arg int) asm.Instructions {
	f := t.fields
	ins := asm.Instructions{load64(asm.R6, asm.R1, 8*arg)}
	if f.rqDisk >= 0 {
		ins = append(ins, load64(asm.R1, asm.R6, f.rqDisk))
	} else {
		ins = append(ins, load64(asm.R1, asm.R6, f.rqQueue),
			asm.JEq.Imm(asm.R1, 0, "out"),
			load64(asm.R1, asm.R1, f.queueDisk))
	}
	return append(ins, t.onDisk()...)
}

// onDisk jumps to "out" unless the gendisk in R1 is the target's.
func (t target) onDisk() asm.Instructions {
	return asm.Instructions{
		asm.JEq.Imm(asm.R1, 0, "out"),
		load32(asm.R2, asm.R1, t.fields.diskMajor),
		asm.JNE.Imm(asm.R2, int32(t.major), "out"),
		load32(asm.R2, asm.R1, t.fields.diskMinor),
		asm.JNE.Imm(asm.R2, int32(t.minor), "out"),
	}
}

// writes goes on only for operations whose code, in R2, changes the disk; the others end, pass-through ones counted.
func (t target) writes() asm.Instructions {
	f := t.fields
	ins := asm.Instructions{
		asm.And.Imm(asm.R2, 0xff),
		spill(slotOp, asm.R2),
		asm.JEq.Imm(asm.R2, int32(f.opWrite), "writes"),
		asm.JEq.Imm(asm.R2, int32(f.opDiscard), "writes"),
		asm.JEq.Imm(asm.R2, int32(f.opZeroes), "writes"),
		asm.JEq.Imm(asm.R2, int32(f.opSecureErase), "writes"),
		asm.JEq.Imm(asm.R2, int32(f.opDriverIn), "driver"),
		asm.JEq.Imm(asm.R2, int32(f.opDriverOut), "driver"),
	}
	if f.opZoneAppend >= 0 {
		ins = append(ins, asm.JEq.Imm(asm.R2, int32(f.opZoneAppend), "writes"))
	}
	ins = append(ins, asm.Ja.Label("out"))
	ins = append(ins, t.countOne("driver", counterDriver)...)
	return ins
}

// mark sets the blocks of the sectors R6 (first) and R7 (number), and goes on at done, with all registers lost.
func (t target) mark(done string) asm.Instructions {
	ins := asm.Instructions{
		// R6 = first, R7 = end, both relative to the tracked part and cut to it.
		asm.Add.Reg(asm.R7, asm.R6),
		asm.LoadImm(asm.R1, t.start, asm.DWord),
		asm.JGE.Reg(asm.R6, asm.R1, "start in range"),
		asm.Mov.Reg(asm.R6, asm.R1),
		asm.LoadImm(asm.R2, t.start+t.sectors, asm.DWord).WithSymbol("start in range"),
		asm.JLE.Reg(asm.R7, asm.R2, "end in range"),
		asm.Mov.Reg(asm.R7, asm.R2),
		asm.JGE.Reg(asm.R6, asm.R7, done).WithSymbol("end in range"),
		asm.Sub.Reg(asm.R6, asm.R1),
		asm.Sub.Reg(asm.R7, asm.R1),
		asm.Sub.Imm(asm.R7, 1),
		asm.RSh.Imm(asm.R6, int32(t.shift)), // first block
		asm.RSh.Imm(asm.R7, int32(t.shift)), // last block
	}
	ins = append(ins, t.orEnds("marks", t.layout.marks, done)...)
	ins = append(ins,
		// The whole words between are bits of the coarse level: R6 = first, R7 = last.
		asm.Mov.Reg(asm.R6, asm.R8),
		asm.Add.Imm(asm.R6, 1),
		asm.Mov.Reg(asm.R7, asm.R9),
		asm.Sub.Imm(asm.R7, 1),
		asm.JGT.Reg(asm.R6, asm.R7, done),
	)
	ins = append(ins, t.orEnds("coarse", t.layout.coarse, done)...)
	return append(ins, t.fillCoarse(done)...)
}

// orEnds sets the bits R6 to R7 of the bitmap at base in their first and last word, and leaves those words in R8 and R9. It goes
// goes on at done when there is no word between.
func (t target) orEnds(label string, base int, done string) asm.Instructions {
	one, first, last := label+" in one word", label+" first done", label+" last done"
	ins := asm.Instructions{
		asm.Mov.Reg(asm.R8, asm.R6), asm.RSh.Imm(asm.R8, 6),
		asm.Mov.Reg(asm.R9, asm.R7), asm.RSh.Imm(asm.R9, 6),
		asm.LoadImm(asm.R1, -1, asm.DWord),
		asm.And.Imm(asm.R6, 63),
		asm.LSh.Reg(asm.R1, asm.R6), // mask of the first word
		asm.LoadImm(asm.R2, -1, asm.DWord),
		asm.And.Imm(asm.R7, 63),
		asm.Mov.Imm(asm.R3, 63),
		asm.Sub.Reg(asm.R3, asm.R7),
		asm.RSh.Reg(asm.R2, asm.R3), // mask of the last word
		spill(slotEnd, asm.R2),
		asm.JNE.Reg(asm.R8, asm.R9, one),
		asm.And.Reg(asm.R1, asm.R2),
		spill(slotMask, asm.R1).WithSymbol(one),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Add.Imm(asm.R1, int32(base)),
	}
	ins = append(ins, t.orWord(first)...)
	ins = append(ins,
		asm.JEq.Reg(asm.R8, asm.R9, done).WithSymbol(first),
		fill(asm.R1, slotEnd),
		spill(slotMask, asm.R1),
		asm.Mov.Reg(asm.R1, asm.R9),
		asm.Add.Imm(asm.R1, int32(base)),
	)
	ins = append(ins, t.orWord(last)...)
	return append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol(last))
}

// fillCoarse sets the words between R8 and R9 of the coarse level whole. A plain store does: it only adds bits, and a taker
// that clears them in the same moment has handed them over, and reads the disk later.
func (t target) fillCoarse(done string) asm.Instructions {
	ins := asm.Instructions{
		asm.Sub.Reg(asm.R9, asm.R8), // one more than there are words between
		asm.Add.Imm(asm.R8, int32(t.layout.coarse)),
		asm.Mov.Imm(asm.R7, 1),
		asm.JGE.Reg(asm.R7, asm.R9, done).WithSymbol("coarse word"),
		asm.Mov.Reg(asm.R1, asm.R8),
		asm.Add.Reg(asm.R1, asm.R7),
	}
	ins = append(ins, t.lookup()...)
	ins = append(ins,
		asm.Mov.Imm(asm.R1, -1),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
		asm.Add.Imm(asm.R7, 1),
		asm.JLT.Imm(asm.R7, maxCoarse, "coarse word"),
	)
	return append(ins, t.countOne("overflow", counterOverflow)...)
}

func end() asm.Instructions {
	return asm.Instructions{asm.Mov.Imm(asm.R0, 0).WithSymbol("out"), asm.Return()}
}

// completion is the program at block_rq_complete. It runs after the data has landed and before the writer is told.
func (t target) completion() *ebpf.ProgramSpec {
	f := t.fields
	ins := asm.Instructions{load64(asm.R7, asm.R1, 8*f.argBytes)}
	ins = append(ins, t.request(f.argRequest)...)
	ins = append(ins, load32(asm.R2, asm.R6, f.rqFlags))
	ins = append(ins, t.writes()...)
	ins = append(ins,
		// the number of bytes is an unsigned int: its upper half is not ours
		asm.LSh.Imm(asm.R7, 32).WithSymbol("writes"),
		asm.RSh.Imm(asm.R7, 32+9), // sectors
		asm.Mov.Reg(asm.R8, asm.R6),
	)
	ins = append(ins, t.leave()...)
	ins = append(ins,
		asm.JEq.Imm(asm.R7, 0, "out"),
		load64(asm.R6, asm.R6, f.rqSector),
		spill(slotFirst, asm.R6),
		spill(slotLast, asm.R7),
	)
	ins = append(ins, t.count(counterSectors)...)
	ins = append(ins, t.discardRanges()...)
	ins = append(ins, fill(asm.R6, slotFirst).WithSymbol("one range"), fill(asm.R7, slotLast))
	ins = append(ins, t.mark("out")...)
	return t.spec("block_rq_complete", append(ins, end()...))
}

// discardRanges widens slotFirst and slotLast to span all ranges of a discard whose request is in R8: such a request may
// carry several that do not touch, and its own sector tells of the first only. What lies between them is marked for nothing;
// the reader finds that it did not change.
func (t target) discardRanges() asm.Instructions {
	f := t.fields
	ins := asm.Instructions{
		fill(asm.R1, slotOp),
		asm.JNE.Imm(asm.R1, int32(f.opDiscard), "one range"),
		fill(asm.R6, slotFirst),
		fill(asm.R7, slotLast),
		asm.Add.Reg(asm.R7, asm.R6), // end
		load64(asm.R8, asm.R8, f.rqBio),
		asm.Mov.Imm(asm.R9, maxBios),
		asm.JEq.Imm(asm.R8, 0, "ranges done").WithSymbol("next bio"),
		load64(asm.R1, asm.R8, f.bioSector),
		load32(asm.R2, asm.R8, f.bioSize),
		asm.RSh.Imm(asm.R2, 9),
		asm.Add.Reg(asm.R2, asm.R1),
		// Smallest start and largest end without a branch, each of which would double what the verifier has to follow.
		asm.Mov.Reg(asm.R3, asm.R1),
		asm.Sub.Reg(asm.R3, asm.R6),
		asm.Mov.Reg(asm.R4, asm.R3),
		asm.ArSh.Imm(asm.R4, 63), // all ones if it starts before
		asm.And.Reg(asm.R3, asm.R4),
		asm.Add.Reg(asm.R6, asm.R3),
		asm.Mov.Reg(asm.R3, asm.R2),
		asm.Sub.Reg(asm.R3, asm.R7),
		asm.Mov.Reg(asm.R4, asm.R3),
		asm.ArSh.Imm(asm.R4, 63),
		asm.Xor.Imm(asm.R4, -1), // all ones if it does not end before
		asm.And.Reg(asm.R3, asm.R4),
		asm.Add.Reg(asm.R7, asm.R3),
		load64(asm.R8, asm.R8, f.bioNext),
		asm.Sub.Imm(asm.R9, 1),
		asm.JNE.Imm(asm.R9, 0, "next bio"),
	}
	ins = append(ins, t.countOne("too many ranges", counterOverflow)...)
	return append(ins,
		spill(slotFirst, asm.R6).WithSymbol("ranges done"),
		asm.Sub.Reg(asm.R7, asm.R6),
		spill(slotLast, asm.R7),
	)
}

func (t target) spec(tracepoint string, ins asm.Instructions) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{
		Name: "understudy", Type: ebpf.Tracing, AttachType: ebpf.AttachTraceRawTp, AttachTo: tracepoint,
		Instructions: ins, License: license,
	}
}
