package webhook

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// maxSecretBytes bounds a secret.
const maxSecretBytes = 4 << 10

// ReadSecret reads a secret from a file, without the line break at its end.
func ReadSecret(path string) ([]byte, error) {
	content, err := readBounded(path, maxSecretBytes)
	if err != nil {
		return nil, fmt.Errorf("webhook: read the secret: %w", err)
	}
	content = bytes.TrimRight(content, "\r\n")
	if len(content) == 0 {
		return nil, fmt.Errorf("webhook: the secret in %s is empty", path)
	}
	return content, nil
}

// readBounded reads a file of at most most bytes.
func readBounded(path string, most int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, int64(most)+1))
	if err == nil && len(content) > most {
		err = fmt.Errorf("%s has over %d bytes", path, most)
	}
	return content, err
}
