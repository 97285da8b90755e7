//go:build !race

package storage

// damageStride is from which byte to which the tests of damage go.
const damageStride = 1
