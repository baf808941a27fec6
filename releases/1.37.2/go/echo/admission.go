package main

import (
	"encoding/json"
	"io"
	"net/http"
)

// The parts of admission.k8s.io/v1 that the tests need; its own module would be a thousand times this size.
type admissionReview struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Request    *admissionRequest  `json:"request,omitempty"`
	Response   *admissionResponse `json:"response,omitempty"`
}

type admissionRequest struct {
	UID    string `json:"uid"`
	Object struct {
		Metadata struct {
			Labels map[string]string `json:"labels"`
		} `json:"metadata"`
	} `json:"object"`
}

type admissionResponse struct {
	UID       string           `json:"uid"`
	Allowed   bool             `json:"allowed"`
	Status    *admissionStatus `json:"status,omitempty"`
	PatchType string           `json:"patchType,omitempty"`
	Patch     []byte           `json:"patch,omitempty"`
}

type admissionStatus struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

type patchOperation struct {
	Op    string `json:"op"`
	Path  string `json:"path"`
	Value any    `json:"value"`
}

func review(decide func(*admissionRequest, *admissionResponse)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var asked admissionReview
		if err := json.NewDecoder(io.LimitReader(r.Body, 8<<20)).Decode(&asked); err != nil || asked.Request == nil {
			http.Error(w, "not an AdmissionReview", http.StatusBadRequest)
			return
		}
		response := &admissionResponse{UID: asked.Request.UID, Allowed: true}
		decide(asked.Request, response)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(admissionReview{APIVersion: asked.APIVersion, Kind: asked.Kind, Response: response})
	}
}

// deny refuses objects labelled deny=true.
func deny(request *admissionRequest, response *admissionResponse) {
	if request.Object.Metadata.Labels["deny"] == "true" {
		response.Allowed = false
		response.Status = &admissionStatus{Code: http.StatusForbidden, Message: "denied by the test webhook"}
	}
}

// mutate labels every object mutated-by=test-webhook.
func mutate(request *admissionRequest, response *admissionResponse) {
	operation := patchOperation{Op: "add", Path: "/metadata/labels/mutated-by", Value: "test-webhook"}
	if len(request.Object.Metadata.Labels) == 0 {
		operation.Path = "/metadata/labels"
		operation.Value = map[string]string{"mutated-by": "test-webhook"}
	}
	response.Patch, _ = json.Marshal([]patchOperation{operation})
	response.PatchType = "JSONPatch"
}
