package podfile

import (
	"encoding/json"
	"fmt"
	"math/big"
	"regexp"

	"github.com/stagelet/stagelet/pkg/pod/manifest"
)

// Quantity is an amount as Kubernetes and appc write it: a decimal number with
// one of the suffixes below, or an exponent. It isn't negative.
type Quantity struct{ amount big.Rat }

var quantityForm = regexp.MustCompile(`^\+?([0-9]{1,20}(?:\.[0-9]{0,20})?|\.[0-9]{1,20})(?:([numkKMGTPE]|[KMGTPE]i)|[eE](\+?[0-9]|-[0-9]))?$`)

// scale gives what a suffix multiplies by.
func scale(suffix string) *big.Rat {
	binary := map[string]uint{"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
	if bits, is := binary[suffix]; is {
		return new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), bits))
	}
	decimal := map[string]string{
		"": "1", "n": "1/1000000000", "u": "1/1000000", "m": "1/1000",
		"k": "1e3", "K": "1e3", "M": "1e6", "G": "1e9", "T": "1e12", "P": "1e15", "E": "1e18",
	}
	r, _ := new(big.Rat).SetString(decimal[suffix])
	return r
}

// ParseQuantity reads a quantity: 0.5, 250m, 64Mi.
func ParseQuantity(text string) (q Quantity, err error) {
	parts := quantityForm.FindStringSubmatch(text)
	if parts == nil {
		return q, fmt.Errorf("%.40q is no quantity such as 0.5, 250m or 64Mi", text)
	}
	number, suffix, exponent := parts[1], parts[2], parts[3]
	if exponent != "" {
		number += "e" + exponent
	}
	if _, ok := q.amount.SetString(number); !ok {
		return q, fmt.Errorf("%.40q is no quantity", text)
	}
	q.amount.Mul(&q.amount, scale(suffix))
	if !q.ceil(1000).IsInt64() {
		return q, fmt.Errorf("%.40q is too large", text)
	}
	return q, nil
}

// UnmarshalJSON takes a string, or a number.
func (q *Quantity) UnmarshalJSON(data []byte) error {
	text := string(data)
	if len(data) > 0 && data[0] == '"' {
		if err := json.Unmarshal(data, &text); err != nil {
			return err
		}
	}
	parsed, err := ParseQuantity(text)
	if err == nil {
		*q = parsed
	}
	return err
}

// Units gives the whole amount, rounded up as Kubernetes does.
func (q *Quantity) Units() int64 { return q.ceil(1).Int64() }

// Milli gives its thousandths, likewise.
func (q *Quantity) Milli() int64 { return q.ceil(1000).Int64() }

func (q *Quantity) ceil(times int64) *big.Int {
	r := new(big.Rat).Mul(&q.amount, new(big.Rat).SetInt64(times))
	whole, rest := new(big.Int).QuoRem(r.Num(), r.Denom(), new(big.Int))
	if rest.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	return whole
}

// CPU shares and quotas of a cgroup (version 1 units) as kubelet makes them of
// thousandths of a CPU.
const (
	sharesPerCPU = 1024
	minShares    = 2
	maxShares    = 262144
	cpuPeriod    = 100_000 // µs
	minQuota     = 1_000   // µs
	maxMilli     = 1e9     // a million CPUs
)

func cpuShares(milli int64) int64 {
	return min(max(min(milli, maxMilli)*sharesPerCPU/1000, minShares), maxShares)
}

func cpuQuota(milli int64) int64 { return max(min(milli, maxMilli)*cpuPeriod/1000, minQuota) }

// LimitCPU bounds what an app has of the processors, and gives it as large a
// share when they are short.
func LimitCPU(r *manifest.Resources, limit Quantity) {
	r.CPUPeriod, r.CPUQuota, r.CPUShares = cpuPeriod, cpuQuota(limit.Milli()), cpuShares(limit.Milli())
}
