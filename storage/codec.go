package storage

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"

	"github.com/fxamacker/cbor/v2"
)

// Codec says how values of type T are stored. It must be safe for concurrent use.
type Codec[T any] interface {
	// Append appends the encoding of v to dst and returns the extended slice. Equal values
	// must be encoded equally, as Tree.CompareAndSwap compares what is stored.
	Append(dst []byte, v T) ([]byte, error)

	// Decode reads v, which is zero, from all of src. It must not keep src.
	Decode(src []byte, v *T) error
}

// JSON stores values as encoding/json does: readable, and understood by everyone.
type JSON[T any] struct{}

// Append implements Codec.
func (JSON[T]) Append(dst []byte, v T) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return dst, err
	}
	return append(dst, b...), nil
}

// Decode implements Codec.
func (JSON[T]) Decode(src []byte, v *T) error { return json.Unmarshal(src, v) }

// CBOR stores values as RFC 8949 says, in its deterministic form: compact, and, unlike
// forms without field names or a standard, readable by other versions of T and by other
// languages. It obeys struct tags of cbor, else of json; `cbor:"1,keyasint"` in the place of
// names, or a field `_ struct{} with `cbor:",toarray"`, make it as small as it gets.
// Times keep their nanoseconds.
type CBOR[T any] struct{}

var cborEncoding, cborDecoding = cborModes()

// cborModes returns what encodes without loss, and decodes whatever that has encoded.
func cborModes() (cbor.UserBufferEncMode, cbor.DecMode) {
	options := cbor.CoreDetEncOptions()
	options.Time = cbor.TimeRFC3339Nano
	enc, errEnc := options.UserBufferEncMode()
	dec, errDec := cbor.DecOptions{
		MaxArrayElements: math.MaxInt32,
		MaxMapPairs:      math.MaxInt32,
		MaxNestedLevels:  math.MaxUint16,
	}.DecMode()
	if errEnc != nil || errDec != nil {
		panic(fmt.Sprintf("storage: CBOR options: %v, %v", errEnc, errDec)) // they are constants
	}
	return enc, dec
}

// Append implements Codec.
func (CBOR[T]) Append(dst []byte, v T) ([]byte, error) {
	buf := bytes.NewBuffer(dst)
	if err := cborEncoding.MarshalToBuffer(v, buf); err != nil {
		return dst, err
	}
	return buf.Bytes(), nil
}

// Decode implements Codec.
func (CBOR[T]) Decode(src []byte, v *T) error { return cborDecoding.Unmarshal(src, v) }
