/// What the trainer's files need of LibTorch; precompiled. Not torch/torch.h: that costs 15-30 s per file.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/variable.h>
