module pintle.dev/module

go 1.24.0
