module benchmarks/sink

go 1.24
