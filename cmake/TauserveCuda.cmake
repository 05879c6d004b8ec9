# The CUDA toolkit and how its sources are compiled. Not CMake's own CUDA language: that wants a whole toolkit with
# libraries to link at run time; nvcc, headers and two libraries are all that is needed here, from a toolkit on the PATH
# or from the wheels that deploy/setup.sh puts into .venv.
#   TAUSERVE_CUDA           option; on where nvcc 13 or later is found
#   tauserve_cuda_library() a shared library of .cu and .cc sources
include_guard(GLOBAL)

set(TAUSERVE_CUDA_GENCODE "arch=compute_80,code=sm_80;arch=compute_90a,code=sm_90a" CACHE STRING
    "What device code is made for, as nvcc's -gencode takes it")
# Without code for sm_90a Hopper runs what other GPUs run: arch=compute_80,code=sm_90 shows on a Hopper that it is right.
set(TAUSERVE_CUDA_SM90 OFF)
if(TAUSERVE_CUDA_GENCODE MATCHES "sm_90a")
  set(TAUSERVE_CUDA_SM90 ON)
endif()

# Sets TAUSERVE_NVCC, TAUSERVE_CUDA_INCLUDE, TAUSERVE_CUDART and TAUSERVE_CUBLASLT where all are there; otherwise
# TAUSERVE_CUDA_MISSING says what is not.
function(tauserve_find_cuda)
  file(GLOB wheels ${PROJECT_SOURCE_DIR}/.venv/lib/python3*/site-packages/nvidia/cu13/bin)
  find_program(on_path nvcc NO_CACHE)
  find_program(in_venv nvcc PATHS ${wheels} NO_DEFAULT_PATH NO_CACHE)
  set(missing "no nvcc on the PATH or in .venv (deploy/setup.sh installs one)")
  foreach(nvcc ${on_path} ${in_venv})
    execute_process(COMMAND ${nvcc} --version OUTPUT_VARIABLE version ERROR_QUIET)
    if(NOT version MATCHES "release ([0-9]+)\\.([0-9]+)" OR CMAKE_MATCH_1 LESS 13)
      set(missing "${nvcc} is older than 13.0")
      continue()
    endif()
    get_filename_component(real ${nvcc} REALPATH)
    get_filename_component(root ${real}/../.. ABSOLUTE)
    set(places ${root} ${root}/targets/${CMAKE_SYSTEM_PROCESSOR}-linux)
    find_path(include cublasLt.h PATHS ${places} PATH_SUFFIXES include NO_DEFAULT_PATH NO_CACHE)
    find_file(cudart libcudart_static.a PATHS ${places} PATH_SUFFIXES lib64 lib NO_DEFAULT_PATH
              NO_CACHE)
    # The wheels have no link without a version.
    find_file(cublaslt NAMES libcublasLt.so.13 libcublasLt.so PATHS ${places}
              PATH_SUFFIXES lib64 lib NO_DEFAULT_PATH NO_CACHE)
    if(NOT include OR NOT cudart OR NOT cublaslt)
      set(missing "${root} has no cublasLt.h, libcudart_static.a or libcublasLt.so.13")
      unset(include)
      unset(cudart)
      unset(cublaslt)
      continue()
    endif()
    set(TAUSERVE_NVCC ${nvcc} PARENT_SCOPE)
    set(TAUSERVE_CUDA_INCLUDE ${include} PARENT_SCOPE)
    set(TAUSERVE_CUDART ${cudart} PARENT_SCOPE)
    set(TAUSERVE_CUBLASLT ${cublaslt} PARENT_SCOPE)
    unset(missing)
    break()
  endforeach()
  set(TAUSERVE_CUDA_MISSING "${missing}" PARENT_SCOPE)
endfunction()

tauserve_find_cuda()
set(default ON)
if(TAUSERVE_CUDA_MISSING OR TAUSERVE_SANITIZER)
  set(default OFF)  # the sanitizers don't follow device code
endif()
option(TAUSERVE_CUDA "Build the CUDA backend" ${default})
if(TAUSERVE_CUDA AND TAUSERVE_CUDA_MISSING)
  message(FATAL_ERROR "TAUSERVE_CUDA is on, but ${TAUSERVE_CUDA_MISSING}")
elseif(TAUSERVE_CUDA)
  message(STATUS "CUDA backend: ${TAUSERVE_NVCC}, ${TAUSERVE_CUBLASLT}")
else()
  message(STATUS "CUDA backend: off. ${TAUSERVE_CUDA_MISSING}")
endif()

# Sets `out` to what is to be linked for `sources`: objects of the .cu files among them, and the others as they are. Files
# that end in _sm90.cu are made for Hopper alone, and left out where nothing is.
function(tauserve_cuda_objects out)
  set(flags -std=c++20 -O3 -DNDEBUG -lineinfo -Werror=all-warnings -Xcompiler=-fPIC,-Wall,-Wextra
            -Xcompiler=-fvisibility=hidden,-Wno-sign-compare,-Wno-restrict --expt-relaxed-constexpr
            -I${PROJECT_SOURCE_DIR})
  set(objects)
  foreach(source ${ARGN})
    if(NOT source MATCHES "\\.cu$")
      list(APPEND objects ${source})
      continue()
    elseif(source MATCHES "_sm90\\.cu$" AND NOT TAUSERVE_CUDA_SM90)
      continue()
    endif()
    set(codes)
    foreach(code ${TAUSERVE_CUDA_GENCODE})
      if(NOT source MATCHES "_sm90\\.cu$" OR code MATCHES "sm_90a")
        list(APPEND codes -gencode ${code})
      endif()
    endforeach()
    get_filename_component(path ${source} ABSOLUTE)
    get_filename_component(name ${source} NAME)
    set(object ${CMAKE_CURRENT_BINARY_DIR}/${name}.o)
    add_custom_command(
      OUTPUT ${object}
      COMMAND ${CMAKE_CXX_COMPILER_LAUNCHER} ${TAUSERVE_NVCC} ${flags} ${codes} -MD -MF ${object}.d
              -MT ${object} -c ${path} -o ${object}
      DEPENDS ${path} DEPFILE ${object}.d COMMENT "Building CUDA object ${name}.o" VERBATIM)
    set_source_files_properties(${object} PROPERTIES EXTERNAL_OBJECT TRUE GENERATED TRUE)
    list(APPEND objects ${object})
  endforeach()
  set(${out} ${objects} PARENT_SCOPE)
endfunction()

# tauserve_cuda_library(name SOURCES a.cu b.cc ... DEPS lib ...): the runtime is linked statically; cuBLASLt, where it is among
# DEPS, is found where it was at build time, in LD_LIBRARY_PATH, or beside the library.
function(tauserve_cuda_library name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  tauserve_cuda_objects(objects ${arg_SOURCES})
  get_filename_component(library_folder ${TAUSERVE_CUBLASLT} DIRECTORY)
  add_library(${name} MODULE ${objects})
  target_include_directories(${name} SYSTEM PRIVATE ${TAUSERVE_CUDA_INCLUDE})
  target_compile_definitions(${name} PRIVATE TAUSERVE_CUDA_SM90=$<BOOL:${TAUSERVE_CUDA_SM90}>)
  target_link_libraries(${name} PRIVATE tauserve_options ${arg_DEPS} ${TAUSERVE_CUDART}
                        Threads::Threads ${CMAKE_DL_LIBS} rt)
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX CXX_VISIBILITY_PRESET hidden
                        BUILD_RPATH "$ORIGIN;${library_folder}" INSTALL_RPATH "$ORIGIN")
endfunction()

# tauserve_cuda_program(name SOURCES a.cu b.cc ... [DEPS library ...]): on a GPU only the CUDA driver is needed to run it,
# and `DEPS`.
function(tauserve_cuda_program name)
  cmake_parse_arguments(arg "" "" "SOURCES;DEPS" ${ARGN})
  tauserve_cuda_objects(objects ${arg_SOURCES})
  add_executable(${name} ${objects})
  target_include_directories(${name} SYSTEM PRIVATE ${TAUSERVE_CUDA_INCLUDE})
  target_link_libraries(${name} PRIVATE tauserve_options ${arg_DEPS} ${TAUSERVE_CUDART}
                        Threads::Threads ${CMAKE_DL_LIBS} rt)
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX)
endfunction()
