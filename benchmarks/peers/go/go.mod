module benchmarks/peers/go

go 1.24

require (
	github.com/rabbitmq/amqp091-go v1.16.0
	github.com/tidwall/gjson v1.20.0
)

require (
	github.com/tidwall/match v1.1.1 // indirect
	github.com/tidwall/pretty v1.2.0 // indirect
)
