#include "kernels/cuda/linear.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"
#include "kernels/host_floats.h"

namespace tauserve::cuda {
namespace {

constexpr size_t kWorkspaceBytes = 32 << 20;  // what the library recommends on sm_90
constexpr size_t kMaxProducts = 1 << 14;      // prompts' rows come in any number

// Keeps the library's failures as the runtime's, which have names for what matters here.
bool CheckCublas(cublasStatus_t status, const char* call, int line) {
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  const cudaError_t pending = cudaGetLastError();
  const cudaError_t code = pending != cudaSuccess                     ? pending
                           : status == CUBLAS_STATUS_ALLOC_FAILED     ? cudaErrorMemoryAllocation
                           : status == CUBLAS_STATUS_NOT_SUPPORTED    ? cudaErrorNotSupported
                           : status == CUBLAS_STATUS_EXECUTION_FAILED ? cudaErrorLaunchFailure
                           : status == CUBLAS_STATUS_INVALID_VALUE    ? cudaErrorInvalidValue
                                                                      : cudaErrorUnknown;
  return KeepCudaError(code, call, __FILE__, line);
}

#define CUBLAS_CHECK(call) CheckCublas((call), #call, __LINE__)

int AlignmentOf(const void* data) {
  const uintptr_t bits = reinterpret_cast<uintptr_t>(data) | 256;
  return static_cast<int>(bits & -bits);
}

}  // namespace

void UploadAsBFloat16(const HostTensor& tensor, void* to) {
  const int64_t n = tensor.size();
  if (tensor.type == DataType::kBFloat16) {
    CUDA_CHECK(cudaMemcpy(to, tensor.data, n * 2, cudaMemcpyHostToDevice));
    return;
  }
  constexpr int64_t kChunk = 16 << 20;
  std::vector<uint16_t> converted(std::min(n, kChunk));
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = std::min(kChunk, n - begin);
    for (int64_t i = 0; i < count; i++) {
      converted[i] = FloatToBFloat16(ElementAsFloat(tensor.data, tensor.type, begin + i));
    }
    CUDA_CHECK(cudaMemcpy(static_cast<char*>(to) + begin * 2, converted.data(), count * 2,
                          cudaMemcpyHostToDevice));
  }
}

GpuLinear::GpuLinear(int64_t in, int64_t out, bool bias)
    : in_(in),
      out_(out),
      weight_(in * out * 2),
      bias_(bias ? out * 2 : 0),
      float_bias_(bias ? out * 4 : 0) {}

// A row-major [rows][n] matrix is a column-major [n][rows] one: out^T = weight * in^T.
struct LinearEngine::Product {
  Product(const Shape& s, cublasLtHandle_t handle) {
    const cudaDataType_t out_type = s.out_type == DataType::kFloat32 ? CUDA_R_32F : CUDA_R_16BF;
    ok = CUBLAS_CHECK(cublasLtMatmulDescCreate(&desc, CUBLAS_COMPUTE_32F, CUDA_R_32F)) &&
         CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&weight, CUDA_R_16BF, s.in, s.out, s.in)) &&
         CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&in, CUDA_R_16BF, s.in, s.rows, s.in_stride)) &&
         CUBLAS_CHECK(cublasLtMatrixLayoutCreate(&out, out_type, s.out, s.rows, s.out_stride));
    if (!ok) return;
    const cublasOperation_t transpose = CUBLAS_OP_T;
    Set(CUBLASLT_MATMUL_DESC_TRANSA, transpose);
    if (s.bias) {
      const cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
      Set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
      Set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, out_type);
    }
    cublasLtMatmulPreference_t preference = nullptr;
    ok = ok && CUBLAS_CHECK(cublasLtMatmulPreferenceCreate(&preference));
    auto prefer = [&](cublasLtMatmulPreferenceAttributes_t name, const auto& value) {
      ok = ok && CUBLAS_CHECK(
                     cublasLtMatmulPreferenceSetAttribute(preference, name, &value, sizeof(value)));
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kWorkspaceBytes);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, static_cast<uint32_t>(s.in_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, static_cast<uint32_t>(s.out_alignment));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, static_cast<uint32_t>(s.out_alignment));
    cublasLtMatmulHeuristicResult_t result;
    int found = 0;
    ok = ok && CUBLAS_CHECK(cublasLtMatmulAlgoGetHeuristic(handle, desc, weight, in, out, out,
                                                           preference, 1, &result, &found));
    if (ok && found == 0) ok = CUBLAS_CHECK(CUBLAS_STATUS_NOT_SUPPORTED);
    if (ok) algorithm = result.algo;
    cublasLtMatmulPreferenceDestroy(preference);
  }
  ~Product() {
    cublasLtMatrixLayoutDestroy(weight);
    cublasLtMatrixLayoutDestroy(in);
    cublasLtMatrixLayoutDestroy(out);
    cublasLtMatmulDescDestroy(desc);
  }
  template <typename T>
  void Set(cublasLtMatmulDescAttributes_t name, const T& value) {
    ok = ok && CUBLAS_CHECK(cublasLtMatmulDescSetAttribute(desc, name, &value, sizeof(value)));
  }

  bool ok = false;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t weight = nullptr, in = nullptr, out = nullptr;
  cublasLtMatmulAlgo_t algorithm;
};

LinearEngine::LinearEngine() = default;

LinearEngine::~LinearEngine() {
  products_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

absl::Status LinearEngine::Open() {
  if (!CUBLAS_CHECK(cublasLtCreate(&handle_))) return KeptCudaStatus();
  workspace_ = GpuBuffer(kWorkspaceBytes);
  return NeedMemory(workspace_, "the workspace of matrix products", "end what else uses the GPU");
}

std::unique_ptr<GpuLinear> LinearEngine::Load(absl::Span<const HostTensor> weights,
                                              absl::Span<const HostTensor> biases,
                                              absl::Status* status) {
  const int64_t in = weights[0].shape[1];
  int64_t out = 0;
  for (const HostTensor& w : weights) {
    TAUSERVE_CHECK(w.shape.size() == 2 && w.shape[1] == in, "stacked weights differ");
    out += w.shape[0];
  }
  TAUSERVE_CHECK(biases.empty() || biases.size() == weights.size(), "one bias for each weight");
  auto linear = std::make_unique<GpuLinear>(in, out, !biases.empty());
  for (const GpuBuffer* buffer : {&linear->weight_, &linear->bias_, &linear->float_bias_}) {
    *status = NeedMemory(*buffer, absl::StrCat("a weight of ", out, " x ", in),
                         "the model does not fit into what is left");
    if (!status->ok()) return linear;
  }
  int64_t row = 0;
  for (size_t i = 0; i < weights.size(); i++) {
    UploadAsBFloat16(weights[i], linear->weight_.as<uint16_t>() + row * in);
    if (!biases.empty()) {
      TAUSERVE_CHECK(biases[i].size() == weights[i].shape[0], "bias length");
      UploadAsBFloat16(biases[i], linear->bias_.as<uint16_t>() + row);
      const std::vector<float> floats = ToFloats(biases[i]);
      CUDA_CHECK(cudaMemcpy(linear->float_bias_.as<float>() + row, floats.data(),
                            floats.size() * sizeof(float), cudaMemcpyHostToDevice));
    }
    row += weights[i].shape[0];
  }
  return linear;
}

LinearEngine::Product& LinearEngine::ProductOf(const Shape& shape) {
  auto it = products_.find(shape);
  if (it == products_.end()) {
    if (products_.size() == kMaxProducts) products_.clear();
    it = products_.emplace(shape, std::make_unique<Product>(shape, handle_)).first;
  }
  return *it->second;
}

void LinearEngine::Run(const GpuLinear& weight, Matrix in, bool add, Matrix out, DataType out_type,
                       cudaStream_t stream) {
  TAUSERVE_CHECK(in.cols == weight.in_ && out.cols == weight.out_ && in.rows == out.rows,
                 "linear shapes");
  if (in.rows == 0) return;
  const bool bias = weight.bias_.size() > 0;
  Product& product = ProductOf({in.rows, in.cols, out.cols, in.stride, out.stride,
                                AlignmentOf(in.data), AlignmentOf(out.data), bias, add, out_type});
  if (bias) {
    const bool floats = out_type == DataType::kFloat32;
    const void* data = floats ? weight.float_bias_.as<void>() : weight.bias_.as<void>();
    product.Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, data);
  }
  if (!product.ok) return;
  const float one = 1, beta = add ? 1 : 0;
  CUBLAS_CHECK(cublasLtMatmul(handle_, product.desc, &one, weight.weight_.as<void>(),
                              product.weight, in.data, product.in, &beta, out.data, product.out,
                              out.data, product.out, &product.algorithm, workspace_.as<void>(),
                              kWorkspaceBytes, stream));
}

}  // namespace tauserve::cuda
