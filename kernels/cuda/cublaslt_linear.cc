#include "kernels/cuda/cublaslt_linear.h"

#include "kernels/check.h"
#include "kernels/cuda/cuda_check.h"

namespace tauserve::cuda {
namespace {

constexpr size_t kMaxProducts = 1 << 14;  // prompts' rows come in any number

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

// A row-major [rows][n] matrix is a column-major [n][rows] one: out^T = weight * in^T.
struct CublasLtLinear::Product {
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
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, kCublasLtWorkspaceBytes);
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

CublasLtLinear::CublasLtLinear() = default;

CublasLtLinear::~CublasLtLinear() {
  products_.clear();
  if (handle_ != nullptr) cublasLtDestroy(handle_);
}

bool CublasLtLinear::Open() { return CUBLAS_CHECK(cublasLtCreate(&handle_)); }

CublasLtLinear::Product& CublasLtLinear::ProductOf(const Shape& shape) {
  auto it = products_.find(shape);
  if (it == products_.end()) {
    if (products_.size() == kMaxProducts) products_.clear();
    it = products_.emplace(shape, std::make_unique<Product>(shape, handle_)).first;
  }
  return *it->second;
}

void CublasLtLinear::Run(const LinearArgs& args, void* workspace, cudaStream_t stream) {
  TAUSERVE_CHECK(!args.gated, "the library has no gated products");
  const Matrix &in = args.in, &out = args.out;
  const bool bias = args.bias != nullptr;
  Product& product =
      ProductOf({in.rows, in.cols, out.cols, in.stride, out.stride, AlignmentOf(in.data),
                 AlignmentOf(out.data), bias, args.add, args.out_type});
  if (bias) {
    const void* data = args.bias;
    if (args.out_type == DataType::kFloat32) data = args.float_bias;
    product.Set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, data);
  }
  if (!product.ok) return;
  const float one = 1, beta = args.add ? 1 : 0;
  CUBLAS_CHECK(cublasLtMatmul(handle_, product.desc, &one, args.weight, product.weight, in.data,
                              product.in, &beta, out.data, product.out, out.data, product.out,
                              &product.algorithm, workspace, kCublasLtWorkspaceBytes, stream));
}

}  // namespace tauserve::cuda
