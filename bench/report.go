package main

import (
	"fmt"
	"io"
	"math"
	"slices"
	"text/tabwriter"
)

// report is what a run found out.
type report struct {
	Machine    string  `json:"machine"`
	Keys       int     `json:"keys"`
	KeyBytes   int     `json:"key_bytes"`
	ValueBytes int     `json:"value_bytes"`
	Rounds     int     `json:"rounds"`
	DiskSyncs  float64 `json:"disk_syncs_per_second"`
	Rows       []line  `json:"rows"`
}

// line is a row with its results, in the order of the engines.
type line struct {
	Name          string   `json:"name"`
	Unit          string   `json:"unit"`
	LowerIsBetter bool     `json:"lower_is_better"`
	Results       []result `json:"results"`
}

// result is one engine's of a row.
type result struct {
	Engine string    `json:"engine"`
	Rounds []float64 `json:"rounds"` // empty if it can't be measured on this system
	Median float64   `json:"median"`

	// Ratio is the median, over the rounds, of how good the engine is compared with raw
	// Pebble with the same options in the same round: 1 is as good, more is better. It is 0
	// if one of the two was not measured.
	Ratio float64 `json:"ratio"`
}

func newLine(row row, engines []engine, measured map[string][]float64) line {
	l := line{Name: row.name, Unit: row.unit, LowerIsBetter: row.lower}
	for _, e := range engines {
		values := measured[e.name]
		l.Results = append(l.Results, result{
			Engine: e.name, Rounds: values, Median: median(values),
			Ratio: median(ratios(values, measured[raw], row.lower)),
		})
	}
	return l
}

// ratios compares values with those of the same rounds in base.
func ratios(values, base []float64, lower bool) []float64 {
	var rs []float64
	for i := range min(len(values), len(base)) {
		if lower {
			rs = append(rs, base[i]/values[i])
		} else {
			rs = append(rs, values[i]/base[i])
		}
	}
	return rs
}

// median returns 0 of nothing.
func median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// table prints the report for people: for each engine what it reached, and the ratio.
func (r *report) table(out io.Writer) error {
	fmt.Fprintf(out, "%s; %d keys of %d bytes, values of %d random bytes; medians of %d rounds.\n", r.Machine, r.Keys,
		r.KeyBytes, r.ValueBytes, r.Rounds)
	fmt.Fprintf(out, "The disk syncs %s times a second. In brackets: compared with Pebble with the same options; more "+
		"is better.\n\n", figure(r.DiskSyncs))
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	if len(r.Rows) > 0 {
		fmt.Fprint(w, "\t")
		for _, result := range r.Rows[0].Results {
			fmt.Fprintf(w, "%s\t", result.Engine)
		}
		fmt.Fprintln(w)
	}
	for _, l := range r.Rows {
		fmt.Fprintf(w, "%s, %s\t", l.Name, l.Unit)
		for _, result := range l.Results {
			fmt.Fprintf(w, "%s\t", result)
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

func (r result) String() string {
	switch {
	case len(r.Rounds) == 0:
		return "–"
	case r.Ratio == 0:
		return figure(r.Median)
	default:
		return fmt.Sprintf("%s (%.2f)", figure(r.Median), r.Ratio)
	}
}

// figure prints three digits that count.
func figure(v float64) string {
	switch {
	case v == 0:
		return "0"
	case v >= 100:
		digits := math.Pow(10, math.Floor(math.Log10(v))-2)
		return grouped(int64(math.Round(v/digits) * digits))
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// grouped prints n with commas.
func grouped(n int64) string {
	if n < 1000 {
		return fmt.Sprint(n)
	}
	return fmt.Sprintf("%s,%03d", grouped(n/1000), n%1000)
}
