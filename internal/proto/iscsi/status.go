package iscsi

import "fmt"

// Status is the class (high byte) and detail (low byte) of a login response (RFC 7143 §11.13.5).
type Status uint16

// Those that the target sends or the initiator looks at.
const (
	StatusOK             Status = 0x0000
	StatusMoved          Status = 0x0101
	StatusMovedForGood   Status = 0x0102
	StatusInitiatorError Status = 0x0200
	StatusAuthFailed     Status = 0x0201
	StatusForbidden      Status = 0x0202
	StatusNotFound       Status = 0x0203
	StatusRemoved        Status = 0x0204
	StatusVersion        Status = 0x0205
	StatusTooManyConns   Status = 0x0206
	StatusMissing        Status = 0x0207
	StatusSessionType    Status = 0x0209
	StatusNoSession      Status = 0x020a
	StatusInvalid        Status = 0x020b
	StatusTargetError    Status = 0x0300
	StatusUnavailable    Status = 0x0301
	StatusNoResources    Status = 0x0302
)

var statusText = map[Status]string{
	StatusOK:             "success",
	StatusMoved:          "target moved for now",
	StatusMovedForGood:   "target moved for good",
	StatusInitiatorError: "initiator error",
	StatusAuthFailed:     "authentication failed",
	StatusForbidden:      "not allowed to use this target",
	StatusNotFound:       "target not found",
	StatusRemoved:        "target removed",
	StatusVersion:        "version not supported",
	StatusTooManyConns:   "too many connections in this session",
	StatusMissing:        "missing parameter",
	StatusSessionType:    "session type not supported",
	StatusNoSession:      "no such session",
	StatusInvalid:        "invalid request during login",
	StatusTargetError:    "target error",
	StatusUnavailable:    "target not available now",
	StatusNoResources:    "target is out of resources",
}

func (s Status) String() string {
	if t, ok := statusText[s]; ok {
		return t
	}
	return fmt.Sprintf("login status %#04x", uint16(s))
}

// Temporary reports whether the same login may succeed later: the class of target errors.
func (s Status) Temporary() bool { return s>>8 == 3 }

// refusal is the end of a login on the target's side: what the initiator is told, and the log.
type refusal struct {
	status Status
	why    error
}

func (r *refusal) Error() string { return r.why.Error() }
func (r *refusal) Unwrap() error { return r.why }

func refuse(s Status, format string, args ...any) error {
	return &refusal{s, fmt.Errorf(format, args...)}
}
