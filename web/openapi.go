package web

import (
	_ "embed" // of openapi.yaml
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/goccy/go-yaml"
)

// openapiYAML describes every route; a test holds it against them.
//
//go:embed openapi.yaml
var openapiYAML []byte

// openapiJSON is the description as clients' tools read it.
func openapiJSON() ([]byte, error) {
	var doc map[string]any
	if err := yaml.Unmarshal(openapiYAML, &doc); err != nil {
		return nil, fmt.Errorf("web: openapi.yaml: %w", err)
	}
	b, err := json.Marshal(doc)
	if err != nil {
		return nil, fmt.Errorf("web: openapi.yaml: %w", err)
	}
	return append(b, '\n'), nil
}

func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) {
	writeBytes(w, "application/json", s.description)
}

func (s *Server) schema(w http.ResponseWriter, _ *http.Request) {
	if s.cfg.Schema == nil {
		writeError(w, http.StatusNotFound, "not_found", "this server has no configuration file")
		return
	}
	writeBytes(w, "application/schema+json", s.cfg.Schema)
}
