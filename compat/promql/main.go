// Promql lets Prometheus' own engine judge alert rules on samples that a test has scraped, and tells
// which metrics an expression names. It is a module of its own: what Prometheus needs must not decide
// with which libraries the real etcd beside it is built.
//
//	promql alerts RULES < scrapes   (JSON: Scrapes) prints JSON: every alert that fired, and when first
//	promql names < expressions      (JSON: list of strings) prints JSON: the metrics of each
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/storage"
	"github.com/prometheus/prometheus/tsdb/chunkenc"
	"github.com/prometheus/prometheus/tsdb/chunks"
	"github.com/prometheus/prometheus/util/annotations"

	"github.com/prometheus/common/model"
)

// Scrapes are looks at some members, one after the other.
type Scrapes struct {
	Job     string
	Scrapes []Scrape
}

// Scrape is one look at all members at once.
type Scrape struct {
	Seconds float64
	Targets map[string]*string // by instance; null for one that does not answer
}

// Firing is an alert for some labels.
type Firing struct {
	Alert  string
	Labels map[string]string
	// From is when it fired first.
	From float64
}

var parse = parser.NewParser(parser.Options{})

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "alerts":
		return alerts(args[1])
	case len(args) == 1 && args[0] == "names":
		return names()
	}
	return fmt.Errorf("usage: promql alerts RULES | promql names")
}

func names() error {
	var expressions []string
	if err := json.NewDecoder(os.Stdin).Decode(&expressions); err != nil {
		return err
	}
	found := make([][]string, len(expressions))
	for i, text := range expressions {
		expression, err := parse.ParseExpr(text)
		if err != nil {
			return fmt.Errorf("%s: %w", text, err)
		}
		for _, selectors := range parser.ExtractSelectors(expression) {
			for _, matcher := range selectors {
				if matcher.Name == model.MetricNameLabel {
					found[i] = append(found[i], matcher.Value)
				}
			}
		}
	}
	return json.NewEncoder(os.Stdout).Encode(found)
}

func alerts(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	rules, errs := rulefmt.Parse(text, false, model.LegacyValidation, parse, slog.New(slog.DiscardHandler))
	if len(errs) > 0 {
		return fmt.Errorf("%s: %v", path, errs)
	}
	var scrapes Scrapes
	if err := json.NewDecoder(bufio.NewReader(os.Stdin)).Decode(&scrapes); err != nil {
		return err
	}
	samples, err := memoryOf(scrapes)
	if err != nil {
		return err
	}
	engine := promql.NewEngine(promql.EngineOpts{
		MaxSamples: 50_000_000, Timeout: time.Minute, LookbackDelta: 5 * time.Minute, Parser: parse,
	})
	fired := []Firing{}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			if rule.Alert == "" {
				return fmt.Errorf("%s: only alerts are known here", path)
			}
			times, err := judge(engine, samples, rule, scrapes.Scrapes)
			if err != nil {
				return fmt.Errorf("%s: %w", rule.Alert, err)
			}
			fired = append(fired, times...)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(fired)
}

// judge evaluates a rule after each scrape, as Prometheus does, and waits for its `for`.
func judge(engine *promql.Engine, samples memory, rule rulefmt.Rule, scrapes []Scrape) ([]Firing, error) {
	pending, firing := map[uint64]float64{}, map[uint64]Firing{}
	for _, scrape := range scrapes {
		at := time.UnixMilli(int64(scrape.Seconds * 1000))
		query, err := engine.NewInstantQuery(context.Background(), samples, nil, rule.Expr, at)
		if err != nil {
			return nil, err
		}
		result := query.Exec(context.Background())
		if result.Err != nil {
			return nil, result.Err
		}
		vector, err := result.Vector()
		if err != nil {
			return nil, err
		}
		active := map[uint64]float64{}
		for _, sample := range vector {
			key := sample.Metric.Hash()
			since, known := pending[key]
			if !known {
				since = scrape.Seconds
			}
			active[key] = since
			if _, is := firing[key]; !is && scrape.Seconds-since >= time.Duration(rule.For).Seconds() {
				told := sample.Metric.Map()
				delete(told, model.MetricNameLabel)
				firing[key] = Firing{rule.Alert, told, scrape.Seconds}
			}
		}
		pending = active
		query.Close()
	}
	var all []Firing
	for _, one := range firing {
		all = append(all, one)
	}
	slices.SortFunc(all, func(a, b Firing) int { return strings.Compare(fmt.Sprint(a), fmt.Sprint(b)) })
	return all, nil
}

// memory holds samples by their labels.
type memory map[uint64]*series

type series struct {
	labels  labels.Labels
	samples []chunks.Sample
}

type point struct {
	t int64
	f float64
}

func (p point) ST() int64                     { return 0 }
func (p point) T() int64                      { return p.t }
func (p point) F() float64                    { return p.f }
func (p point) H() *histogram.Histogram       { return nil }
func (p point) FH() *histogram.FloatHistogram { return nil }
func (p point) Type() chunkenc.ValueType      { return chunkenc.ValFloat }
func (p point) Copy() chunks.Sample           { return p }

// memoryOf reads the texts of all scrapes. A series that a scrape does not show any more ends, as in
// Prometheus, with a mark.
func memoryOf(scrapes Scrapes) (memory, error) {
	all := memory{}
	before := map[string]map[uint64]bool{}
	for _, scrape := range scrapes.Scrapes {
		at := int64(scrape.Seconds * 1000)
		for instance, text := range scrape.Targets {
			now := map[uint64]bool{}
			up := 0.0
			if text != nil {
				up = 1
				for line := range strings.Lines(*text) {
					line = strings.TrimSpace(line)
					if line == "" || line[0] == '#' {
						continue
					}
					if err := all.add(line, instance, scrapes.Job, at, now); err != nil {
						return nil, err
					}
				}
			}
			if err := all.add(fmt.Sprint("up ", up), instance, scrapes.Job, at, now); err != nil {
				return nil, err
			}
			for key := range before[instance] {
				if !now[key] {
					all[key].samples = append(all[key].samples, point{at, stale})
				}
			}
			before[instance] = now
		}
	}
	return all, nil
}

func (m memory) add(line, instance, job string, at int64, now map[uint64]bool) error {
	space := strings.LastIndexByte(line, ' ')
	if space < 0 {
		return fmt.Errorf("no sample: %q", line)
	}
	metric, err := parse.ParseMetric(line[:space])
	if err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	var value float64
	if _, err := fmt.Sscan(line[space+1:], &value); err != nil {
		return fmt.Errorf("%q: %w", line, err)
	}
	builder := labels.NewBuilder(metric)
	builder.Set("instance", instance)
	builder.Set("job", job)
	metric = builder.Labels()
	key := metric.Hash()
	if m[key] == nil {
		m[key] = &series{labels: metric}
	}
	m[key].samples = append(m[key].samples, point{at, value})
	now[key] = true
	return nil
}

// Querier makes a memory what the engine asks.
func (m memory) Querier(_, _ int64) (storage.Querier, error) { return querier{m}, nil }

type querier struct{ memory }

func (q querier) Select(_ context.Context, _ bool, _ *storage.SelectHints, matchers ...*labels.Matcher) storage.SeriesSet {
	set := &found{at: -1}
	for _, one := range q.memory {
		matches := func(m *labels.Matcher) bool { return m.Matches(one.labels.Get(m.Name)) }
		if !slices.ContainsFunc(matchers, func(m *labels.Matcher) bool { return !matches(m) }) {
			set.series = append(set.series, storage.NewListSeries(one.labels, one.samples))
		}
	}
	slices.SortFunc(set.series, func(a, b storage.Series) int { return labels.Compare(a.Labels(), b.Labels()) })
	return set
}

func (querier) LabelValues(context.Context, string, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) LabelNames(context.Context, *storage.LabelHints, ...*labels.Matcher) ([]string, annotations.Annotations, error) {
	return nil, nil, nil
}

func (querier) Close() error { return nil }

type found struct {
	series []storage.Series
	at     int
}

func (f *found) Next() bool                        { f.at++; return f.at < len(f.series) }
func (f *found) At() storage.Series                { return f.series[f.at] }
func (f *found) Err() error                        { return nil }
func (f *found) Warnings() annotations.Annotations { return nil }
