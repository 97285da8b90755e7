package driver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// mutant is a mistake, planted by a textual replacement, and a test that fails then.
type mutant struct {
	bug      string
	file     string // of the module
	old, new string // old is there once
	dir      string // of the test
	test     string // one or several, each of which fails; of a package that plays seeds in short form
}

// mutants are told of in docs/robustness.md, in the same order. mutants_run_test.go plants them.
var mutants = []mutant{
	{
		"Answers, and all else that has to wait for the write, leave before it.",
		"internal/driver/group.go", "\td.send(g, work.SendNow)\n", "\td.send(g, work.SendNow)\n\td.send(g, work.AfterSync)\n",
		"internal/simtest", "TestChaos",
	},
	{
		"Votes alone are answered before the write.",
		"internal/driver/group.go", "\td.send(g, work.SendNow)\n", `	d.send(g, work.SendNow)
	for _, m := range work.AfterSync {
		if m.GetType() == raftpb.MsgVoteResp {
			g.answerVote(m)
		}
	}
`, "internal/simtest", "TestChaos",
	},
	{
		"Votes are asked for before the candidate's own is on its disk.",
		"internal/driver/driver.go", "\td.whole = d.whole[:0]\n", `	d.whole = d.whole[:0]
	for _, g := range d.writing {
		for _, m := range g.round.work.AfterSync {
			if m.GetType() == raftpb.MsgVote {
				d.send(g, []*raftpb.Message{m})
			}
		}
	}
	d.requestVotes()
`, "internal/simtest", "TestChaos",
	},
	{
		"Rounds are written and not synced.",
		"internal/driver/driver.go", "d.disk.Commit(written, sync)", "d.disk.Commit(written, sync && false)",
		"internal/simtest", "TestChaos",
	},
	{
		"A write of several groups is synced if the last one of them must be.",
		"internal/driver/driver.go", "sync = sync || g.round.part.MustSync", "sync = g.round.part.MustSync",
		"internal/driver", "TestSyncOfAnyGroup",
	},
	{
		"After a write that failed the round goes on.",
		"internal/driver/driver.go", "\tif err := d.disk.Commit(written, sync); err != nil {\n\t\treturn nil, err\n\t}\n",
		"\t_ = d.disk.Commit(written, sync)\n",
		"internal/driver", "TestNothingLeavesAfterAFailedWrite",
	},
	{
		"A proposal is answered before its entry's effects are written.",
		"internal/driver/group.go", "\t\tdata += len(a.Data)\n", `		data += len(a.Data)
		if call := g.proposals.take(c.Waiting.Sequence); call != nil {
			call.Answer(nexusraft.Result{Data: a.Data, Index: c.Index}, a.Err)
		}
`, "internal/driver", "TestProposalIsAnsweredAfterItsWrite",
	},
	{
		"The call that has waited for longest gets the answer of any proposal.",
		"internal/driver/proposals.go", "\treturn len(p.calls) - 1 - int(back)\n", "\treturn p.begin\n",
		"internal/driver", "TestPendingIsAMap",
	},
	{
		"The applied index is stored apart from what was applied.",
		"internal/driver/group.go", "\tr.part.Committed = r.work.Committed[first:r.applied]\n",
		"\tr.part.Committed = r.work.Committed[first:max(first, r.applied-1)]\n",
		"internal/simtest", "TestChaos",
	},
	{
		"A round that is written in parts ends after the first one.",
		"internal/driver/group.go", "return r.begun && r.applied == len(r.work.Committed)", "return r.begun",
		"internal/simtest", "TestChaos",
	},
	{
		"A conf change in a later part of its round is not synced.",
		"internal/driver/group.go", "r.part.MustSync = r.part.MustSync || c.ConfChange != nil", "_ = c.ConfChange",
		"internal/worker", "TestConfChangeInALaterPart",
	},
	{
		"What a group has applied is written though its state machine has failed.",
		"internal/driver/driver.go", "\t\t\tg.owner.Failed(failure.Err)\n",
		"\t\t\t_ = g.owner.Stage(&g.round.part)\n\t\t\tg.owner.Failed(failure.Err)\n",
		"internal/driver", "TestGroupFailsAlone",
	},
	{
		"A vote is answered from the slot of another term's request.",
		"internal/driver/votes.go", "if i < 0 || !g.votes[i].answeredBy(m) {", "if i < 0 {",
		"internal/driver", "TestAnswerToAnotherTermsVote",
	},
	{
		"A pre-vote and a vote of one candidate share a slot.",
		"internal/driver/votes.go", "g.votes[i].from == from && g.votes[i].pre == pre", "g.votes[i].from == from",
		"internal/driver", "TestPreVoteAndVoteInOneTurn",
	},
	{
		"Of a batch that raft refuses only the first call is answered.",
		"internal/driver/proposals.go", "\tfor _, e := range envelopes {\n\t\tif call",
		"\tfor _, e := range envelopes[:1] {\n\t\tif call",
		"internal/driver", "TestRefusedBatch",
	},
	{
		"An entry of several commands is cut between two parts of its round.",
		"internal/driver/group.go", "r.applied > first && !c.Continues() && data", "r.applied > first && data",
		"internal/driver", "TestCommandsOfOneEntry",
	},
	{
		"Of the commands of an entry only the first one is answered.",
		"internal/zone/ready.go", "\t\t\tc.Waiting = first.plus(i)\n",
		"\t\t\tif i > 0 {\n\t\t\t\tc.Waiting = ProposalID{}\n\t\t\t}\n",
		"internal/driver", "TestCommandsOfOneEntry",
	},
	{
		"The commands of an entry get each other's answers.",
		"internal/zone/ready.go", "\t\t\tc.Waiting = first.plus(i)\n",
		"\t\t\tc.Waiting = first.plus(len(commands) - 1 - i)\n",
		"internal/driver", "TestCommandsOfOneEntry",
	},
	{
		"Of an entry that is overwritten only the first command's caller hears.",
		"internal/zone/proposal.go", "lost = end(lost, x.id, x.count, nexusraft.ErrNotLeader)",
		"lost = end(lost, x.id, 1, nexusraft.ErrNotLeader)",
		"internal/driver", "TestEntryIsLost",
	},
	{
		"The nodes' own commands share entries with those of clients.",
		"internal/zone/batch.go", "if e.Own || e.Alone", "if e.Alone",
		"internal/driver", "TestCommandsOfOneEntry",
	},
	{
		"A session's command that is twice in one entry runs twice.",
		"internal/apply/apply.go", "case a.Ran:", "case a.Ran && a.Index != index:",
		"internal/apply", "TestCommandTwiceInOneEntry",
	},
	{
		"A state has a checkpoint in the middle of an entry.",
		"internal/apply/digest.go", "if p.more {", "if p.more && p.index == 0 {",
		"internal/apply", "TestCheckpointIsOfAWholeEntry",
	},
	{
		"A digest is of the last command of each entry alone.",
		"internal/apply/digest.go", "\tif p.more {\n",
		"\tif d.Sum = 0; p.more {\n",
		"internal/apply", "TestDigestIsOfAllCommandsOfAnEntry",
	},
	{
		"A request for a vote that raft refuses takes the place of another one.",
		"internal/driver/group.go", "\tif err := g.replica.Step(from, m); err != nil {\n", `	if call != nil {
		g.await(m, call)
	}
	if err := g.replica.Step(from, m); err != nil {
`, "internal/driver", "TestRefusedVoteTakesNoPlace",
	},
	{
		"Any read's answer serves the reads that wait.",
		"internal/driver/reads.go", "\tif i < 0 {\n\t\treturn\n\t}\n", "\tif i < 0 {\n\t\ti = len(r.asked) - 1\n\t}\n",
		"internal/worker", "TestReadsWaitForTheirOwnIndex",
	},
	{
		"An answer serves reads that came after its question.",
		"internal/driver/reads.go", "\tfor _, q := range r.asked[:i+1] {\n", `	i = len(r.asked) - 1
	for _, q := range r.asked[:i+1] {
`, "internal/driver", "TestAnswerIsNotForLaterReads",
	},
	{
		"Reads are served before their index is applied.",
		"internal/driver/reads.go", "\t\tif x.index > applied {\n", "\t\tif x.index > applied+1<<20 {\n",
		"internal/driver", "TestReadWaitsForItsIndex",
	},
	{
		"A state counts as new as a read that its question did not wait for.",
		"internal/driver/reads.go", "\t\t\t\tr.fresh.served(c.asked)\n", `				r.fresh.served(c.asked)
				for _, w := range r.waiting {
					r.fresh.served(w.asked)
				}
`, "internal/driver", "TestFreshness",
	},
	{
		"A state counts as new as an answer that is not applied.",
		"internal/driver/reads.go",
		"\t\tr.indexed = append(r.indexed, indexedRead{index: c.Index, confirmed: true, reads: q.reads})\n",
		`		r.indexed = append(r.indexed, indexedRead{index: c.Index, confirmed: true, reads: q.reads})
		for _, w := range q.reads {
			r.fresh.served(w.asked)
		}
`, "internal/driver", "TestFreshness",
	},
	{
		"A lease counts from the answer of a quorum.",
		"internal/driver/lease.go", "\t\tl.asked.Store(&q.at)\n", "\t\tq.at = l.c.Clock()\n\t\tl.asked.Store(&q.at)\n",
		"internal/driver", "TestLeaseCountsFromItsQuestion",
	},
	{
		"A lease outlives a change of the zone's replicas.",
		"internal/driver/group.go", "\tg.reads.lease.end()\n\treturn g.replica.ApplyConfChange(e)\n",
		"\treturn g.replica.ApplyConfChange(e)\n",
		"internal/driver", "TestLeaseOfOneVoter",
	},
	{
		"A lease is good for a question of before its end.",
		"internal/driver/lease.go", "\tl.epoch++\n", "",
		"internal/driver", "TestLeaseEndsBeforeTheWorldHears",
	},
	{
		"A leader reads alone while it hands over.",
		"internal/zone/promise.go", " && r.handedOver != r.hard.term", "",
		"internal/simtest", "TestLeaseEndsInATransfer",
	},
	{
		"A leader reads alone though a voter runs an earlier release.",
		"internal/driver/lease.go", " || !l.kept()", "",
		"internal/driver", "TestLeaseOfOneVoter",
	},
	{
		"A read by a lease misses what others know to be committed.",
		"internal/driver/group.go", "\tg.followLease()\n\tg.owner.Began(&g.round.work)\n\td.send(g, work.SendNow)\n",
		"\tg.owner.Began(&g.round.work)\n\td.send(g, work.SendNow)\n\tg.followLease()\n",
		"internal/driver", "TestLeaseKnowsWhatIsTold",
	},
	{
		"A voter votes right after its start.",
		"internal/zone/promise.go", "\treturn silence{}\n", "\treturn silence{electionTicks}\n",
		"internal/simtest", "TestVoterThatWasStarted",
	},
	{
		"A voter that has forgotten its leader votes for another one.",
		"internal/zone/promise.go", "return r.LeaseTicksLeft() > 0 && m", "return false && m",
		"internal/driver", "TestPromiseOutlivesTheLeader",
	},
	{
		"A member stands for election though it has promised its leader not to.",
		"internal/zone/replica.go", "left := r.LeaseTicksLeft(); left > 0 {", "left := r.LeaseTicksLeft(); left > 1<<30 {",
		"internal/driver", "TestPromiseOutlivesTheLeader",
	},
	{
		"A replica that a message wakes gets ticks of before it.",
		"internal/driver/neighbors.go", "\t\tif !g.stepped {\n\t\t\tslept", "\t\tif true {\n\t\t\tslept",
		"internal/zone", "TestWokenAsItsLeaderFallsSilent",
	},
	{
		"Messages that were taken out of the inbox go on being counted in it.",
		"internal/driver/inbox.go", "\tb.waiting, b.bytes = waiting{}, 0\n", "\tb.waiting = waiting{}\n",
		"internal/driver", "TestInboxCountsWhatItHolds",
	},
	{
		"The inbox of a worker that is stuck takes all the room of the others.",
		"internal/driver/inbox.go", "\tif inboxes > 1 {\n", "\tif inboxes < 0 {\n",
		"internal/driver", "TestInboxesShareTheirBounds",
	},
	{
		"A vote request that finds no room in its inbox has no answer.",
		"internal/driver/inbox.go", "\t\tms[taken+i].ignore(why)\n", "\t\t_, _ = i, why\n",
		"internal/worker", "TestVotesWithoutRoom",
	},
	{
		"What one worker says of the node wakes no leader of another one.",
		"internal/driver/neighbors.go", "\tn.follow()\n\tfor ", "\tfor ",
		"internal/worker", "TestSignalOfAllWorkers",
	},
	{
		"A node says that it lives while one of its workers is stuck.",
		"internal/worker/together.go", "due = p.count == len(p.ticked)", "due = p.count > 0",
		"internal/worker", "TestStuckWorkerMakesTheNodeSilent",
	},
	{
		"A worker drops the zones of others.",
		"internal/worker/hosting.go", "|| !w.has(id) {\n\t\t\t\tcontinue", "{\n\t\t\t\tcontinue",
		"internal/worker", "TestWorkersCompareTheirOwnZones",
	},
	{
		"A member's write is not synced.",
		"internal/worker/worker.go", "w.batch.Commit(sync)", "w.batch.Commit(sync && false)",
		"internal/worker", "TestAnswersLeaveAfterTheSync|TestVotesLeaveAfterTheSync",
	},
	{
		"A witness's write is not synced.",
		"witness/worker.go", "root.log.Write(root.update, true)", "root.log.Write(root.update, false)",
		"witness", "TestAnswersLeaveAfterTheSync",
	},
	{
		"What a witness writes for the zones besides the root zone is not synced.",
		"witness/journal.go", "\t\terr = j.file.Sync()\n", "\t\terr = nil\n",
		"witness", "TestRoundIsOneWrite",
	},
	{
		"The directory of a witness's first files is not synced.",
		"witness/journal.go", "\tif err == nil && j.sizes[other] == 0 {\n", "\tif false {\n",
		"witness", "TestJournalCrashAtEveryStep",
	},
	{
		"The log above a snapshot that is on its way is compacted.",
		"internal/raftlog/compact.go", "\t\t\tupTo = min(upTo, index)\n", "\t\t\t_ = index\n",
		"internal/worker", "TestLogAboveASnapshotStays",
	},
	{
		"A witness is shown entries before they are on the leader's disk.",
		"internal/zone/ready.go", "mayLeaveEarly(m) && !r.showsWitness(m) &&", "mayLeaveEarly(m) &&",
		"internal/worker", "TestCandidateAsksAfterTheSync",
	},
	{
		"What tells of the commit of a conf change leaves before the write.",
		"internal/zone/ready.go", "&& !b.tells(m) {", "{",
		"internal/simtest", "TestLeaderCrashesAsItRemoves",
	},
	{
		"A deposed leader's messages renew the lease of the one that a witness follows.",
		"internal/zone/promise.go", "\t\tif m.GetTerm() >= r.rn.BasicStatus().GetTerm() {\n", "\t\tif m.GetTerm() > 0 {\n",
		"witness", "TestDeposedLeaderRenewsNoLease",
	},
	{
		"Zones sleep on though a node that they rest on is silent.",
		"internal/driver/neighbors.go", "\tif was == is && (!ok || s == x.signal) {",
		"\tif !ok || was == is && s == x.signal {",
		"internal/zone", "TestLeaderDiesAsleep|TestLeaderIsCutOffAsleep",
	},
	{
		"A node that was started anew wakes no zone.",
		"internal/driver/neighbors.go", "\tif was == is && (!ok || s == x.signal) {",
		"\tif was == is {",
		"internal/zone", "TestLeaderRestartsAsleep",
	},
	{
		"A zone that sleeps does not get the ticks that it has missed when its leader's node is silent.",
		"internal/driver/neighbors.go", "\t\tfor range min(missed, slept) {\n",
		"\t\tfor range min(missed-missed, slept) {\n",
		"internal/zone", "TestLeaderDiesAsleep",
	},
	{
		"A zone sleeps while a read waits.",
		"internal/driver/group.go", "\tif g.reads.wait() {",
		"\tif g.reads.wait() && false {",
		"internal/zone", "TestFollowerThatIsBusy",
	},
	{
		"A leader sleeps though a follower has not agreed.",
		"internal/zone/sleep.go", "(!agreed || r.sleep.agreed[id])",
		"(!agreed || r.sleep.agreed[id] || true)",
		"internal/zone", "TestLostAskOrAnswer",
	},
	{
		"A leader sleeps with an entry that the witness lacks.",
		"internal/zone/sleep.go", "idle = idle && nexusraft.Index(pr.Match) == r.last && ",
		"idle = idle && ",
		"internal/zone", "TestWitnessWithLess",
	},
	{
		"A late mark of a process that is gone puts a follower to sleep.",
		"internal/zone/sleep.go", "return ok && heard == k.signal &&",
		"return ok && (heard == k.signal || true) &&",
		"internal/zone", "TestLateMarks",
	},
	{
		"A follower sleeps in the round that applies an entry.",
		"internal/zone/sleep.go", "agrees := s.agrees && rests",
		"agrees := s.agrees; rests = rests || agrees",
		"internal/zone", "TestFollowerWithMore",
	},
	{
		"A signal stands for a leader's heartbeats for ever.",
		"internal/zone/heartbeats.go", " && t.signals <= r.cfg.HeartbeatTicks:", ":",
		"internal/zone", "TestLeaderIsMissed",
	},
	{
		"An old signal of a leader's node stands for a heartbeat.",
		"internal/driver/neighbors.go", "x != nil && x.silence == 0", "x != nil",
		"internal/zone", "TestLeaderIsMissed",
	},
	{
		"A tick in which no signal has come counts at once.",
		"internal/zone/heartbeats.go", "case !heard && t.owed < r.cfg.ElectionTicks-2:", "case false:",
		"internal/zone", "TestSlowLeader",
	},
	{
		"Ticks in which no signal came are lost.",
		"internal/zone/heartbeats.go", "ticks = t.owed + 1", "ticks = 1",
		"internal/zone", "TestLeaderIsMissed",
	},
	{
		"A signal stands for no heartbeat.",
		"internal/zone/heartbeats.go", "case heard && s == t.signal &&", "case heard && s != t.signal &&",
		"internal/zone", "TestSignalsStandForHeartbeats",
	},
	{
		"A write of several groups is synced only if no other group has a part in it.",
		"internal/driver/driver.go", "sync = sync || g.round.part.MustSync",
		"sync = sync || len(groups) == 1 && g.round.part.MustSync",
		"internal/simtest", "TestZoneChaos",
	},
	{
		"Of a write of several groups only the first one's part is done.",
		"internal/driver/driver.go", "d.disk.Commit(written, sync)",
		"d.disk.Commit(written[:min(1, len(written))], sync)",
		"internal/simtest", "TestZoneChaos",
	},
	{
		"A session's answer is not stored.",
		"internal/system/sessions.go", "\t\ts.kept |= bit\n",
		"",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A session runs the number that it has just forgotten.",
		"internal/system/sessions.go", "case place >= sessionWindow:",
		"case place > sessionWindow:",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A session forgets a number too early.",
		"internal/system/sessions.go", "case place >= sessionWindow:",
		"case place >= sessionWindow-1:",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A numbered command runs again if a process that was started anew has proposed it.",
		"internal/apply/apply.go", "\tcase a.Ran:\n",
		"\tcase a.Ran && e.Proposal.Incarnation == 1:\n",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A numbered command that has failed is not remembered.",
		"internal/apply/apply.go", "return a.Now, o, a.End(index, o.Data, o.Err)",
		"if o.Err == nil {\n\t\terr = a.End(index, o.Data, o.Err)\n\t}\n\treturn a.Now, o, err",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A snapshot leaves out the table of the sessions.",
		"internal/snapshot/encode.go", "\t\t\te.mark(at.offset+w.offset, p.Key)\n",
		"\t\t\tif string(p.Key) == \"\\x00rc\" {\n\t\t\t\tcontinue\n\t\t\t}\n\t\t\te.mark(at.offset+w.offset, p.Key)\n",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A digest passes over entries that say nothing.",
		"internal/apply/digest.go", "\to.Checkpoint, err = digest(base, position{index: index}, 0, nil)\n",
		"\t_, _ = base, index\n",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A digest is of all that is not written yet.",
		"internal/apply/digest.go", "effects.HashTo(h)",
		"base.HashTo(h)",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A digest leaves out what a command has written.",
		"internal/apply/digest.go", "\t\teffects.HashTo(h)\n",
		"",
		"internal/simtest", "TestMachineThatDiffers",
	},
	{
		"A member passes each comparison of digests.",
		"internal/system/digest.go", "c.GetIndex() && d.Sum != c.GetDigest()",
		"c.GetIndex() && d.Sum == c.GetDigest()-1",
		"internal/simtest", "TestMachineThatDiffers",
	},
	{
		"A zone's time goes back where the next leader's clock is behind.",
		"internal/system/time.go", "leaders = max(leaders, int64(binary.BigEndian.Uint64(b)))",
		"_ = max(leaders, 0)",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"The log of a zone that was deleted stays on the disk.",
		"internal/datadir/zones.go", "\treturn raftlog.Drop(b, d.Raft, id)\n",
		"\treturn nil\n",
		"internal/simtest", "TestZoneChaos",
	},
	{
		"Sessions that have expired are not forgotten.",
		"internal/system/sessions.go", "\t\tif !t.expired(s) {\n\t\t\treturn nil\n\t\t}\n",
		"\t\tif s != nil {\n\t\t\treturn nil\n\t\t}\n",
		"internal/simtest", "TestSessionChaos",
	},
	{
		"A zone gets the ID of one that was deleted.",
		"internal/system/zones.go", "t.LastId, t.Version, t.Count = t.GetLastId()+1,",
		"t.LastId, t.Version, t.Count = uint64(t.GetCount())+2,",
		"internal/simtest", "TestZoneChaos",
	},
	{
		"A sweep removes the version that is live at the compaction revision.",
		"kv/compact.go", "changeKey(position{w.meta.compacted + 1, 0})) {",
		"changeKey(position{w.meta.compacted + 2, 0})) {",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"A read of an old revision takes back the last change of a key, and not the first one.",
		"kv/view.go", "if _, known := u.mods[string(c.key)]; known {",
		"if _, known := u.mods[string(c.key)]; known && false {",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"A read of an old revision takes back no deletes.",
		"kv/view.go", "if !within(c.key, from, to) {",
		"if c.deleted || !within(c.key, from, to) {",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"Revisions can be read that were compacted.",
		"kv/view.go", "case rev < m.compacted:",
		"case rev < m.compacted-2:",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"The compares of a transaction inside see what the one around it has written.",
		"kv/txn.go", "resp, err := t.branch(op.GetRequestTxn(), p)",
		"resp, err := (&transaction{r: t.r, meta: t.meta, w: t.w, left: t.left}).run(op.GetRequestTxn())",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"A zone that goes over to versions leaves its rows as they were.",
		"kv/statemachine.go", "m.layout, m.moving = layoutVersions, m.revision > firstRevision",
		"m.layout, m.moving = layoutVersions, false",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"A late revoke removes a lease that was checkpointed since.",
		"kv/revoke.go", "req.generation != l.Generation && !l.Revoking:",
		"req.generation > l.Generation && !l.Revoking:",
		"kv", "TestLeaseGenerations15247",
	},
	{
		"A deleted key stays on its lease.",
		"kv/write.go", "w.attach(p.key, p.rec.lease, 0)",
		"w.attach(p.key, 0, 0)",
		"internal/simtest", "TestKeySpaceChaos",
	},
	{
		"A key that moves to another lease stays on the one before.",
		"kv/lease.go", "if was != 0 {",
		"if was != 0 && now == 0 {",
		"internal/simtest", "TestKeySpaceChaos",
	},
}

const page = "docs/robustness.md"

// TestMutantsAreTold: the page has each mutant, and what is to be replaced is there.
func TestMutantsAreTold(t *testing.T) {
	told := section(t)
	var want []string
	for _, m := range mutants {
		source, err := os.ReadFile(filepath.Join("../..", m.file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(source), m.old); n != 1 {
			t.Errorf("%s: what is to be replaced is %d times in %s", m.bug, n, m.file)
		}
		want = append(want, m.row())
	}
	if got := strings.Join(want, "\n"); got != told {
		t.Errorf("%s tells\n%s\nwant\n%s", page, told, got)
	}
}

func (m mutant) row() string {
	dir, base := filepath.Split(m.file)
	return "| " + m.bug + " | `" + strings.TrimSuffix(dir, "/") + "` (" + base + ") | `" + m.dir + "`: `" +
		strings.ReplaceAll(m.test, "|", "`, `") + "` |"
}

// section returns the rows of the page's table.
func section(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("../..", page))
	if err != nil {
		t.Fatal(err)
	}
	_, after, ok := strings.Cut(string(text), "\n## Mutants of the driver\n")
	if !ok {
		t.Fatalf("%s has no section of the driver's mutants", page)
	}
	after, _, _ = strings.Cut(after, "\n## ")
	var rows []string
	for line := range strings.Lines(after) {
		if strings.HasPrefix(line, "| ") && !strings.HasPrefix(line, "| bug ") {
			rows = append(rows, strings.TrimSpace(line))
		}
	}
	return strings.Join(rows, "\n")
}
