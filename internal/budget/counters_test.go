package budget

import "testing"

func TestCounters(t *testing.T) {
	var c Counters
	c.Refused(AnswerBytes)
	c.Refused(AnswerBytes)
	all := c.Snapshot()
	if got := all["answer_bytes"]; got != 2 || c.Count(AnswerBytes) != 2 {
		t.Errorf("answer_bytes = %d, Count = %d, want 2", got, c.Count(AnswerBytes))
	}
	if len(all) != int(causeCount) {
		t.Errorf("%d causes in the snapshot, want %d: two have the same text, or one has none: %v", len(all), causeCount, all)
	}
	if _, ok := all[""]; ok {
		t.Errorf("a cause without a text: %v", all)
	}
}
