package main

import (
	"math"

	"github.com/prometheus/prometheus/model/value"
)

// stale ends a series.
var stale = math.Float64frombits(value.StaleNaN)
