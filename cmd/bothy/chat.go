package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"github.com/spf13/cobra"
)

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatRequest struct {
	Model       string        `json:"model"`
	Messages    []chatMessage `json:"messages"`
	Stream      bool          `json:"stream"`
	Temperature *float64      `json:"temperature,omitempty"`
	MaxTokens   int           `json:"max_tokens,omitempty"`
}

type chatChunk struct {
	Choices []struct {
		Delta struct {
			Content string `json:"content"`
		} `json:"delta"`
	} `json:"choices"`
	Error *struct {
		Message string `json:"message"`
	} `json:"error"`
}

func chatCommand(o *options) *cobra.Command {
	var socket, model, class string
	var temperature float64
	var maxTokens int
	var local, where bool
	cmd := &cobra.Command{
		Use: "chat [TEXT]", Short: "Ask a model on this box",
		Long:    "Ask a model on this box, as an application would. Without TEXT, each line of\nstandard input is one question of a conversation.",
		Example: `  bothy chat "What is the capital of France?"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := o.chatClient(socket)
			if err != nil {
				return err
			}
			c.out, c.where, c.local, c.class = cmd.OutOrStdout(), where, local, class
			if model == "" {
				if model, err = c.firstModel(cmd.Context()); err != nil {
					return err
				}
			}
			ask := chatRequest{Model: model, Stream: true, MaxTokens: maxTokens}
			if cmd.Flags().Changed("temperature") {
				ask.Temperature = &temperature
			}
			if len(args) > 0 {
				ask.Messages = []chatMessage{{Role: "user", Content: strings.Join(args, " ")}}
				_, err := c.ask(cmd.Context(), ask)
				return err
			}
			if f, ok := cmd.InOrStdin().(*os.File); ok && isatty.IsTerminal(f.Fd()) {
				fmt.Fprintf(cmd.ErrOrStderr(), "asking %s; a line is a question, Ctrl-D ends\n", model)
			}
			return c.converse(cmd.Context(), ask, cmd.InOrStdin())
		},
	}
	f := cmd.Flags()
	f.StringVar(&socket, "socket", os.Getenv("BOTHY_SOCKET"), "API socket of the agent (default: the configuration's)")
	f.StringVarP(&model, "model", "m", "", "model alias (default: the only one, or the first)")
	f.Float64Var(&temperature, "temperature", 0, "sampling temperature")
	f.IntVar(&maxTokens, "max-tokens", 0, "most tokens to answer with")
	f.BoolVar(&local, "local", false, "do not let this request leave the box")
	f.StringVar(&class, "class", "", "put this request into a class of the policy")
	f.BoolVar(&where, "where", false, "say on standard error where the answer came from")
	return cmd
}

type chatClient struct {
	http         *http.Client
	socket       string
	out          io.Writer
	local, where bool
	class        string
}

func (o *options) chatClient(socket string) (*chatClient, error) {
	if socket == "" {
		c, err := o.loadConfig()
		if err != nil {
			return nil, err
		}
		socket = c.API.Socket
	}
	return &chatClient{http: unixClient(socket), socket: socket}, nil
}

func (c *chatClient) firstModel(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://bothy/v1/models", nil)
	if err != nil {
		return "", fmt.Errorf("internal error: %w", err)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", explainDial("--socket", c.socket, err)
	}
	defer resp.Body.Close()
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return "", fmt.Errorf("cannot read the list of models: %w", err)
	}
	if len(list.Data) == 0 {
		return "", withHint{fmt.Errorf("no model is installed on this box"), "assign one with `bothy fleet assign`, then look at `bothy change list`"}
	}
	return list.Data[0].ID, nil
}

// converse asks line after line and keeps the conversation.
func (c *chatClient) converse(ctx context.Context, ask chatRequest, in io.Reader) error {
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		text := strings.TrimSpace(lines.Text())
		if text == "" {
			continue
		}
		ask.Messages = append(ask.Messages, chatMessage{Role: "user", Content: text})
		answer, err := c.ask(ctx, ask)
		if err != nil {
			return err
		}
		ask.Messages = append(ask.Messages, chatMessage{Role: "assistant", Content: answer})
	}
	return lines.Err()
}

// ask streams one answer to the output and returns it.
func (c *chatClient) ask(ctx context.Context, ask chatRequest) (string, error) {
	body, err := json.Marshal(ask)
	if err != nil {
		return "", fmt.Errorf("internal error: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://bothy/v1/chat/completions", bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("internal error: %w", err)
	}
	req.Header.Set("content-type", "application/json")
	if c.local {
		req.Header.Set("x-bothy-place", "local")
	}
	if c.class != "" {
		req.Header.Set("x-bothy-class", c.class)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return "", explainDial("--socket", c.socket, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 400 {
		return "", readProblem(resp)
	}
	answer, err := c.stream(resp.Body)
	if err != nil {
		return "", err
	}
	if c.where {
		fmt.Fprintf(os.Stderr, "place %s, reason %s, rule %s\n", resp.Header.Get("x-bothy-place"), resp.Header.Get("x-bothy-reason"), resp.Header.Get("x-bothy-rule"))
	}
	return answer, nil
}

func (c *chatClient) stream(body io.Reader) (string, error) {
	var answer strings.Builder
	lines := bufio.NewScanner(body)
	lines.Buffer(nil, 16<<20)
	done := false
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			done = true // and read on to the end: hanging up here would count as an answer cut off
			continue
		}
		var chunk chatChunk
		if err := json.Unmarshal([]byte(data), &chunk); err != nil {
			return "", fmt.Errorf("cannot read the answer: %w", err)
		}
		if chunk.Error != nil {
			return "", fmt.Errorf("the answer broke off: %s", chunk.Error.Message)
		}
		for _, choice := range chunk.Choices {
			answer.WriteString(choice.Delta.Content)
			if _, err := io.WriteString(c.out, choice.Delta.Content); err != nil {
				return "", err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("the answer broke off: %w", err)
	}
	if !done {
		return "", fmt.Errorf("the answer broke off before its end")
	}
	_, err := fmt.Fprintln(c.out)
	return answer.String(), err
}
