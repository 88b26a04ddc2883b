// A hand-written consumer: takes deliveries, posts _bulk requests of 1,000, and acks each with all
// before it once the answer was 200 and no item failed. One goroutine gathers while another sends.
//
// -id=true reads the id from each body (a JSON pointer of one step) and sends it as _id.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/tidwall/gjson"
)

type batch struct {
	body  *bytes.Buffer
	count int
	last  uint64
}

type settings struct {
	broker, queue, url string
	size               int
	age                time.Duration
	withID             bool
}

func main() {
	var given settings
	flag.BoolVar(&given.withID, "id", true, "read the id from the body and send it")
	flag.Parse()
	given.broker, given.queue = os.Getenv("BENCH_BROKER"), os.Getenv("BENCH_QUEUE")
	given.url = os.Getenv("BENCH_SINK") + "/" + os.Getenv("BENCH_INDEX") +
		"/_bulk?filter_path=errors,items.*.error"
	given.size, _ = strconv.Atoi(os.Getenv("BENCH_SIZE"))
	milliseconds, _ := strconv.Atoi(os.Getenv("BENCH_AGE_MS"))
	given.age = time.Duration(milliseconds) * time.Millisecond
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := run(ctx, given); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, given settings) error {
	connection, err := amqp.Dial(given.broker)
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := channel.Qos(5*given.size, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume(given.queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	batches, free := make(chan batch, 1), make(chan *bytes.Buffer, 3)
	for range cap(free) {
		free <- bytes.NewBuffer(make([]byte, 0, 512<<10))
	}
	go func() {
		if err := send(batches, free, channel, given.url); err != nil {
			log.Fatal(err) // what is not acked comes again
		}
	}()
	return gather(ctx, deliveries, batches, free, given)
}

// gather makes batches of deliveries: by number, or by the age of the first.
func gather(ctx context.Context, deliveries <-chan amqp.Delivery, batches chan<- batch,
	free <-chan *bytes.Buffer, given settings,
) error {
	timer := time.NewTimer(given.age)
	timer.Stop()
	held := batch{body: <-free}
	flush := func() {
		batches <- held
		held = batch{body: <-free}
		timer.Stop()
	}
	for {
		select {
		case delivery, open := <-deliveries:
			if !open {
				return errors.New("the broker closed the channel")
			}
			if held.count == 0 {
				timer.Reset(given.age)
			}
			add(&held, delivery, given.withID)
			if held.count == given.size {
				flush()
			}
		case <-timer.C:
			if held.count > 0 {
				flush()
			}
		case <-ctx.Done():
			return nil
		}
	}
}

func add(held *batch, delivery amqp.Delivery, withID bool) {
	if withID {
		held.body.WriteString(`{"create":{"_id":`)
		held.body.WriteString(gjson.GetBytes(delivery.Body, "id").Raw)
		held.body.WriteString("}}\n")
	} else {
		held.body.WriteString("{\"index\":{}}\n")
	}
	held.body.Write(delivery.Body)
	held.body.WriteByte('\n')
	held.count++
	held.last = delivery.DeliveryTag
}

// send posts each batch and acks it.
func send(batches <-chan batch, free chan<- *bytes.Buffer, channel *amqp.Channel, url string) error {
	var client http.Client
	for held := range batches {
		if err := post(&client, url, held.body.Bytes()); err != nil {
			return err
		}
		if err := channel.Ack(held.last, true); err != nil {
			return err
		}
		held.body.Reset()
		free <- held.body
	}
	return nil
}

var good = []byte(`{"errors":false}`)

func post(client *http.Client, url string, body []byte) error {
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/x-ndjson")
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK || !bytes.Equal(text, good) {
		return fmt.Errorf("status %d: %.200s", answer.StatusCode, text)
	}
	return nil
}
