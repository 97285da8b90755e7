package bench

import (
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-analyze/charts"
)

// Page is a file that will hold a result as an HTML page. The page needs no other file and
// no network.
type Page struct {
	path string
	temp *os.File // beside path, so that path is replaced at once
}

// NewPage finds out whether a page can be written to path, which keeps its content until
// Write. Close must be called.
func NewPage(path string) (*Page, error) {
	if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	temp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp")
	if err != nil {
		if p, ok := errors.AsType[*fs.PathError](err); ok {
			err = p.Err // the name in p is none that the caller knows
		}
		return nil, fmt.Errorf("write to %s: %w", path, err)
	}
	return &Page{path: path, temp: temp}, nil
}

// Write makes the result the file's content.
func (p *Page) Write(r *Result) error {
	err := r.html(p.temp)
	if err == nil {
		err = p.temp.Chmod(0o644)
	}
	if err = errors.Join(err, p.temp.Close()); err == nil {
		err = os.Rename(p.temp.Name(), p.path)
	}
	if err != nil {
		return fmt.Errorf("write the page %s: %w", p.path, err)
	}
	return nil
}

// Close removes what was not written.
func (p *Page) Close() {
	p.temp.Close()
	os.Remove(p.temp.Name())
}

var page = template.Must(template.New("").Parse(`<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{.Op}}: {{printf "%.0f" .PerSecond}} per second</title>
<style>
body { font-family: sans-serif; max-width: 62em; margin: 2em auto; color: #222 }
table { border-collapse: collapse; margin-bottom: 2em }
td, th { border: 1px solid #bbb; padding: .3em .8em; text-align: right }
.note { color: #a00 }
</style>
</head>
<body>
<h1>{{.Op}}: {{printf "%.0f" .PerSecond}} per second</h1>
<p>{{.Operations}} operations in {{printf "%.1f" .Seconds}} s; {{.Clients}} clients, each of which waits for its answer;
values of {{.ValueSize}} bytes; {{.KeySpace}} keys; endpoints{{range .Endpoints}} {{.}}{{end}}.</p>
{{if .Interrupted}}<p class="note">Interrupted before its time was over.</p>{{end}}
{{range .Absent}}<p class="note">No answer: {{.}}</p>{{end}}
{{range .Failures}}<p class="note">Errors: {{.}}</p>{{end}}
{{if .Uncertain}}<p class="note">{{.Uncertain}} of the failed puts may have been written all the same;
none was repeated.</p>{{end}}
<table>
<tr><th></th><th>mean</th><th>p50</th><th>p95</th><th>p99</th><th>max</th></tr>
<tr><th>latency, ms</th>{{range .Latencies}}<td>{{printf "%.3f" .}}</td>{{end}}</tr>
</table>
{{range .Charts}}{{.}}
{{end}}</body>
</html>
`))

// html writes the page.
func (r *Result) html(w io.Writer) error {
	distribution, err := r.distributionChart()
	if err != nil {
		return fmt.Errorf("draw the distribution: %w", err)
	}
	throughput, err := r.throughputChart()
	if err != nil {
		return fmt.Errorf("draw the throughput: %w", err)
	}
	l := r.Latency
	return page.Execute(w, struct {
		*Result
		Failures  []string
		Latencies []float64
		Charts    []template.HTML
	}{
		r, r.failures(),
		[]float64{l.Mean / 1000, float64(l.P50) / 1000, float64(l.P95) / 1000, float64(l.P99) / 1000, float64(l.Max) / 1000},
		[]template.HTML{distribution, throughput},
	})
}

// distributionChart is a bar for each bucket.
func (r *Result) distributionChart() (template.HTML, error) {
	counts := make([]float64, len(r.Histogram))
	labels := make([]string, len(r.Histogram))
	for i, b := range r.Histogram {
		counts[i], labels[i] = float64(b.Count), fmt.Sprintf("%g–%g", float64(b.From)/1000, float64(b.To)/1000)
	}
	if len(counts) == 0 {
		return "", nil
	}
	opt := charts.NewBarChartOptionWithData([][]float64{counts})
	opt.Title = charts.TitleOption{Text: "Operations by latency, ms"}
	opt.CategoryAxis.Labels = labels
	return svg(func(p *charts.Painter) error { return p.BarChart(opt) })
}

// throughputChart is a line of operations and one of errors.
func (r *Result) throughputChart() (template.HTML, error) {
	values := [][]float64{make([]float64, len(r.Throughput)), make([]float64, len(r.Throughput))}
	labels := make([]string, len(r.Throughput))
	for i, s := range r.Throughput {
		values[0][i], values[1][i], labels[i] = s.OK, s.Failed, fmt.Sprintf("%.1f s", s.At)
	}
	if len(labels) == 0 {
		return "", nil
	}
	opt := charts.NewLineChartOptionWithData(values)
	opt.Title = charts.TitleOption{Text: "Throughput, per second"}
	opt.Legend = charts.LegendOption{SeriesNames: []string{"operations", "errors"}}
	opt.XAxis.Labels = labels
	opt.Symbol = charts.Symbol{Shape: charts.SymbolNone}
	return svg(func(p *charts.Painter) error { return p.LineChart(opt) })
}

// svg draws a chart that can stand inside a page.
func svg(draw func(*charts.Painter) error) (template.HTML, error) {
	p := charts.NewPainter(charts.PainterOptions{OutputFormat: charts.ChartOutputSVG, Width: 960, Height: 400})
	if err := draw(p); err != nil {
		return "", err
	}
	b, err := p.Bytes()
	return template.HTML(b), err
}
