package program

import "fmt"

// Size is a number of bytes for people.
func Size(bytes int64) string {
	const k = 1 << 10
	switch {
	case bytes < k:
		return fmt.Sprintf("%d B", bytes)
	case bytes < k*k:
		return fmt.Sprintf("%d KiB", bytes/k)
	case bytes < k*k*k:
		return fmt.Sprintf("%d MiB", bytes/k/k)
	}
	return fmt.Sprintf("%.1f GiB", float64(bytes)/k/k/k)
}
