package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
)

// ErrNoDaemon says that no daemon answers at a control socket.
var ErrNoDaemon = errors.New("no daemon answers")

// event is one line of a control reply: progress any number of times, then a result or an error.
type event struct {
	Progress *progressEvent  `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    string          `json:"error,omitempty"`
	Code     Code            `json:"code,omitempty"`
}

type progressEvent struct {
	Done  int64 `json:"done"`
	Total int64 `json:"total"`
}

// Reply is a handler's answer for Client.Call. The work may tell its progress in bytes as often as it likes; its result is
// sent as JSON, its error with its exit code. Its ctx ends when the client has gone.
func Reply(work func(ctx context.Context, r *http.Request, progress func(done, total int64)) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/x-ndjson")
		flush := http.NewResponseController(w)
		enc := json.NewEncoder(w)
		send := func(e event) {
			// A client that has gone ends the request's context, and with it the work.
			if enc.Encode(e) == nil {
				_ = flush.Flush()
			}
		}
		result, err := work(r.Context(), r, func(done, total int64) {
			send(event{Progress: &progressEvent{Done: done, Total: total}})
		})
		var raw []byte
		if err == nil {
			raw, err = json.Marshal(result)
		}
		if err != nil {
			send(event{Error: err.Error(), Code: ExitCode(err)})
			return
		}
		send(event{Result: raw})
	})
}

// Client calls a daemon over its control socket.
type Client struct {
	socket string
	http   http.Client
}

// NewClient makes a client of the socket at path; it connects with each call.
func NewClient(path string) *Client {
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", path)
		},
		DisableKeepAlives: true,
	}
	return &Client{socket: path, http: http.Client{Transport: transport}}
}

// Call asks for path with the query and decodes the result into into; progress, if not nil, is told how far the daemon is.
// ErrNoDaemon: nobody answers. An error of the daemon comes back with its exit code.
func (c *Client) Call(ctx context.Context, path string, query url.Values, progress func(done, total int64), into any) error {
	u := url.URL{Scheme: "http", Host: "control", Path: path, RawQuery: query.Encode()}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), nil)
	if err != nil {
		return fmt.Errorf("make control request: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
			return fmt.Errorf("control socket %s: %w (%w)", c.socket, ErrNoDaemon, op.Err)
		}
		return fmt.Errorf("call daemon: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("control socket %s does not know %s (%s): is it another daemon's, or an older one?", c.socket, path, resp.Status)
	}
	return readEvents(ctx, resp.Body, progress, into)
}

func readEvents(ctx context.Context, body io.Reader, progress func(done, total int64), into any) error {
	dec := json.NewDecoder(bufio.NewReader(body))
	for {
		var e event
		if err := dec.Decode(&e); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return Exitf(CodeUnreachable, "the daemon ended in the middle of its answer: %w", err)
		}
		switch {
		case e.Error != "":
			return Exit(e.Code, errors.New(e.Error))
		case e.Progress != nil:
			if progress != nil {
				progress(e.Progress.Done, e.Progress.Total)
			}
		default:
			if into == nil {
				return nil
			}
			if err := json.Unmarshal(e.Result, into); err != nil {
				return fmt.Errorf("read daemon's answer: %w", err)
			}
			return nil
		}
	}
}
