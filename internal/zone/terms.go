package zone

import "fmt"

// A term far beyond this replica's own is refused from any sender (I13). Terms end at maxPosition: a
// single answer with that term, once stored, would make every later election impossible.
//
// maxTermsAhead bounds what a full replica may be ahead. Only a real election uses up a term
// (pre-votes use none): a zone that elects a leader each millisecond needs 34 years for so many.
//
// A witness may be ahead by less. Its answers have to be believed, since raft deposes a leader by
// them, and honest ones are ahead by the few elections that a replica has missed. But a dishonest
// witness could go a bit further in each of thousands of answers, and carry one member beyond the
// terms that the other member, which did not hear it, still accepts. So the answers of all witnesses
// share one budget: a year of elections, two seconds apart, at once, and a little more with each
// tick. At that rate two members would have to be cut off from each other for more than a year
// before one is out of the other's reach, and the terms last for millions of years.
const (
	maxTermsAhead     = 1 << 40
	maxWitnessBudget  = 1 << 24
	witnessTermsATick = 1 << 10
)

// terms is the budget of terms that the answers of witnesses may move this replica ahead.
type terms struct{ spent uint64 } // spent <= maxWitnessBudget

// check refuses a term that is so far ahead.
func (t *terms) check(ahead uint64, full bool) error {
	limit := uint64(maxTermsAhead)
	if !full {
		limit = maxWitnessBudget - t.spent
	}
	if ahead > limit {
		return fmt.Errorf("its term is %d ahead, which no election explains; the limit is %d", ahead, limit)
	}
	return nil
}

// spend notes that a term that was checked is taken over.
func (t *terms) spend(ahead uint64, full bool) {
	if !full {
		t.spent += ahead
	}
}

func (t *terms) tick() { t.spent -= min(t.spent, witnessTermsATick) }
