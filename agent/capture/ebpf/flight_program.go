package ebpf

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// SPDX-License-Identifier: MIT OR GPL-2.0-only
//
// See program.go for why. These programs keep the table of writes in flight (see flight.go).

// exchange swaps *(u64*)dst and src, atomically. The constant is needed for the same reason as orAtomic's (BPF_XCHG is 0xe1).
func exchange(dst, src asm.Register) asm.Instruction {
	ins := asm.Xchg.Mem(dst, src, asm.DWord, 0)
	ins.Constant = 0xe1
	return ins
}

// entry leaves the index of the entry of the request in R8 in slotEntry, or jumps to none where the table has no place for
// it. A request keeps its internal tag for life where there is an I/O scheduler, and its tag where there is none.
func (t target) entry(none string) asm.Instructions {
	f := t.fields
	return asm.Instructions{
		load64(asm.R1, asm.R8, f.rqHctx),
		asm.JEq.Imm(asm.R1, 0, none),
		load32(asm.R1, asm.R1, f.hctxNumber),
		load32(asm.R2, asm.R8, f.rqInternalTag),
		asm.JLE.Imm(asm.R2, 0x7fffffff, "tag"), // -1 where there is none
		load32(asm.R2, asm.R8, f.rqTag),
		asm.JGE.Imm(asm.R2, int32(t.table.Depth), none).WithSymbol("tag"),
		asm.JGE.Imm(asm.R1, int32(t.table.Queues), none),
		asm.Mul.Imm(asm.R1, int32(t.table.Depth)),
		asm.Add.Reg(asm.R1, asm.R2),
		asm.Mul.Imm(asm.R1, entryWords),
		asm.Add.Imm(asm.R1, int32(t.layout.flights)),
		spill(slotEntry, asm.R1),
	}
}

// word leaves the address of a word of the entry in R0.
func (t target) word(n int32) asm.Instructions {
	return append(asm.Instructions{fill(asm.R1, slotEntry), asm.Add.Imm(asm.R1, n)}, t.lookup()...)
}

// set stores what is in a slot of the stack in a word of the entry.
func (t target) set(n int32, slot int16) asm.Instructions {
	return append(t.word(n), fill(asm.R1, slot), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord))
}

// leave takes the request in R8, of which R7 sectors completed, out of the table, where it is what the entry is of.
//
// A write with a flush is completed twice, and the second time, with no sectors, its bios are back: if the entry is still
// there then, nobody saw the first time, and it stays. A request whose bios were taken away (a path that failed) has not been
// written.
func (t target) leave() asm.Instructions {
	if t.table.entries() == 0 {
		return nil
	}
	ins := asm.Instructions{
		asm.JNE.Imm(asm.R7, 0, "leaves"),
		load64(asm.R1, asm.R8, t.fields.rqBio),
		asm.JNE.Imm(asm.R1, 0, "out"),
		asm.Mov.Imm(asm.R1, 0).WithSymbol("leaves"),
	}
	ins = append(ins, t.entry("left")...)
	ins = append(ins, t.clear("left")...)
	return append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("left"))
}

// clear empties the entry if it is of the request in R8, or jumps.
func (t target) clear(not string) asm.Instructions {
	return append(t.word(entryID),
		load64(asm.R1, asm.R0, 0),
		load64(asm.R2, asm.R8, t.fields.rqStart),
		asm.JNE.Reg(asm.R1, asm.R2, not),
		asm.Mov.Imm(asm.R1, 0),
		asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord),
	)
}

// issue is the program at block_rq_issue, before the driver gets the request. If the entry is of an earlier use of the
// request, that write has completed and nobody saw it: it is marked first, then counted. Then the entry becomes the
// request's, if it is a write. The id goes first and comes last, so that who reads an entry between two equal ids has it whole.
func (t target) issue() *ebpf.ProgramSpec {
	f := t.fields
	ins := t.request(f.argIssue)
	ins = append(ins, spill(slotRq, asm.R6), asm.Mov.Reg(asm.R8, asm.R6))
	ins = append(ins, t.entry("out")...)
	ins = append(ins, t.word(entryID)...)
	ins = append(ins,
		load64(asm.R1, asm.R0, 0),
		asm.JEq.Imm(asm.R1, 0, "enter"),
		load64(asm.R2, asm.R8, f.rqStart),
		asm.JEq.Reg(asm.R1, asm.R2, "enter"), // it was given back, and comes again
	)
	ins = append(ins, t.word(entryFirst)...)
	ins = append(ins, load64(asm.R6, asm.R0, 0))
	ins = append(ins, t.word(entrySectors)...)
	ins = append(ins, load64(asm.R7, asm.R0, 0))
	ins = append(ins, t.mark("marked")...)
	ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("marked"))
	ins = append(ins, t.word(entryID)...)
	ins = append(ins,
		asm.Mov.Imm(asm.R1, 0),
		exchange(asm.R0, asm.R1),
		asm.JEq.Imm(asm.R1, 0, "enter"), // the agent was faster
	)
	ins = append(ins, t.word(entryCount)...)
	ins = append(ins, load64(asm.R7, asm.R0, 0))
	ins = append(ins, t.count(counterFound)...)
	ins = append(ins, fill(asm.R6, slotRq).WithSymbol("enter"), load32(asm.R2, asm.R6, f.rqFlags))
	ins = append(ins, t.writes()...)
	return t.spec("block_rq_issue", append(append(ins, t.enter()...), end()...))
}

// enter makes the entry that of the request in R6.
func (t target) enter() asm.Instructions {
	f := t.fields
	ins := asm.Instructions{
		load32(asm.R7, asm.R6, f.rqSize).WithSymbol("writes"),
		asm.RSh.Imm(asm.R7, 9),
		asm.JEq.Imm(asm.R7, 0, "out"),
		asm.Mov.Reg(asm.R8, asm.R6),
		load64(asm.R6, asm.R6, f.rqSector),
		spill(slotFirst, asm.R6),
		spill(slotLast, asm.R7),
		spill(slotCount, asm.R7),
	}
	ins = append(ins, t.discardRanges()...)
	ins = append(ins, asm.Mov.Imm(asm.R0, 0).WithSymbol("one range"))
	ins = append(ins, t.word(entryID)...)
	ins = append(ins, asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.R0, 0, asm.R1, asm.DWord))
	ins = append(ins, t.set(entryFirst, slotFirst)...)
	ins = append(ins, t.set(entrySectors, slotLast)...)
	ins = append(ins, t.set(entryCount, slotCount)...)
	ins = append(ins, t.word(entryID)...)
	return append(ins,
		fill(asm.R6, slotRq),
		load64(asm.R1, asm.R6, f.rqStart),
		exchange(asm.R0, asm.R1),
	)
}

// requeue is the program at block_rq_requeue: the driver gave the request back.
func (t target) requeue() *ebpf.ProgramSpec {
	ins := append(t.request(t.fields.argRequeue), asm.Mov.Reg(asm.R8, asm.R6))
	ins = append(ins, t.entry("out")...)
	ins = append(ins, t.clear("out")...)
	return t.spec("block_rq_requeue", append(ins, end()...))
}
