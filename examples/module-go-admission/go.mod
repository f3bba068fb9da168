module module-go-admission

go 1.24.0

require pintle.dev/module v0.0.0

replace pintle.dev/module => ../../modules/sdk/go
